package main

// stream writes what products that are larger than the caches need.
func stream() {
	open("cpu", "..", "stream")
	text("storeFence", "orders stores that went past the caches before the stores that follow.")
	e("SFENCE")
	e("RET")
	save()
}
