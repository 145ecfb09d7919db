package cpu

import (
	"bufio"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// AvailableMemory is the smaller of what the system says is available and what
// the control groups that the process is in allow, in bytes; 0 when unknown.
func AvailableMemory() int64 {
	avail := meminfo("MemAvailable:")
	if n := groupLimit("/proc/self/cgroup", "/sys/fs/cgroup"); n > 0 && (avail == 0 || n < avail) {
		avail = n
	}
	return avail
}

// groupLimit is the least that a process's control group, or one that it lies in,
// allows, in bytes; 0 for no limit. groups is the kernel's list of the groups, of
// which systemd and Slurm make one for each job; in a container their paths may be
// those outside of it, and only the root is there.
func groupLimit(groups, root string) int64 {
	list, _ := os.ReadFile(groups)
	files := []string{filepath.Join(root, "memory.max"), filepath.Join(root, "memory/memory.limit_in_bytes")}
	for line := range strings.Lines(string(list)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3) // number:controllers:path, the controllers of version 2 unnamed
		if len(parts) < 3 {
			continue
		}
		for dir := filepath.Clean("/" + parts[2]); dir != "/"; dir = filepath.Dir(dir) {
			if parts[1] == "" {
				files = append(files, filepath.Join(root, dir, "memory.max"))
			} else if slices.Contains(strings.Split(parts[1], ","), "memory") {
				files = append(files, filepath.Join(root, "memory", dir, "memory.limit_in_bytes"))
			}
		}
	}
	least := int64(0)
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64); err == nil && n > 0 && (least == 0 || n < least) {
			least = n
		}
	}
	return least
}

func meminfo(key string) int64 {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), key); ok {
			n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return n << 10
		}
	}
	return 0
}
