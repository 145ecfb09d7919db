package corpus

import "strings"

// The vocabulary: short common words, few enough that a BPE of 2,048 tokens
// holds most of them whole.
var (
	firstNames = words(`Anna Ben Carla David Emma Felix Greta Hugo Ida Jonas Karin Leo Maria Nils Olga Paul
		Rosa Simon Tina Victor Wanda Yusuf Zoe Adam Berta Clara Daniel Elena Frank Gina Hans Irene Jakob Lena Marta
		Nora Oscar Petra Robert Sara Thomas Ursula Walter Alice Boris Cecil Diana Edgar Flora Georg Helen Ivan Julia
		Kurt Laura Martin Nina Otto Pia Ralf Sofia Theo Vera Amir Chen Dara Farid Hana Kofi Lin Mei Omar Priya Ravi Yara`)
	surnames = words(`Berg Stone Miller Fischer Lund Novak Rossi Silva Meyer Olsen Clark Weber Duval Costa Moreno
		Hill Brook Ford Lake Wood Marsh Field North West Young Baker Cook Hunter Mason Potter Taylor Turner Ward Walker
		Larsen Jensen Hansen Keller Vogel Wolf Braun Koch Roth Lang Haas Petit Leroy Blanc Garcia Lopez Perez Santos
		Kim Park Tan Wong Sato Mori Khan Ali Shah Patel Singh Okoro Mensah Diallo Novik Orlov Petrov Kovac Horvat`)
	cities = words(`Oslo Paris Berlin Madrid Rome Vienna Prague Lisbon Dublin Athens Bern Turin Lyon Porto Genoa
		Bergen Aarhus Malmo Turku Riga Vilnius Tallinn Krakow Gdansk Brno Graz Linz Basel Geneva Ghent Bruges Leiden
		Delft York Leeds Bath Cork Galway Cairo Tunis Accra Lagos Nairobi Lima Quito Bogota Havana Toronto Boston
		Denver Austin Dallas Seoul Osaka Kyoto Tokyo Hanoi Delhi Mumbai Perth Sydney`)
	countries = words(`Norway France Germany Spain Italy Austria Portugal Ireland Greece Sweden Denmark Finland Poland
		Egypt Ghana Kenya Peru Cuba Canada Japan Korea India Brazil Chile Mexico`)
	items = words(`lamp chair table book pen bag cup plate bowl knife clock mirror carpet shelf box basket bottle
		candle pillow blanket ladder hammer saw drill brush bucket rope tent stove kettle teapot spoon fork vase radio
		camera phone laptop printer keyboard guitar violin drum flute bike helmet boot coat scarf glove hat shirt belt
		ring watch map globe kite ball puzzle doll wagon barrow pump hose lantern compass`)
	foods = words(`bread cheese butter milk honey rice pasta soup salad apple pear plum cherry lemon orange melon
		carrot potato onion tomato bean pea corn nut fish egg cake tea coffee juice salt pepper sugar flour oil`)
	animals    = words(`dog cat horse cow sheep goat hen duck goose owl eagle fox wolf bear deer hare mouse frog snake bee ant whale seal`)
	colors     = words(`red blue green yellow black white brown grey orange purple pink silver`)
	jobs       = words(`teacher doctor nurse baker cook driver farmer pilot painter writer singer lawyer judge clerk engineer plumber tailor gardener librarian carpenter`)
	materials  = words(`wood steel glass stone paper cotton wool leather clay copper iron plastic silk brass`)
	sizes      = words(`small medium large`)
	statuses   = words(`open closed paid sent late new ready lost`)
	teams      = words(`north south east west alpha beta gamma delta`)
	weekdays   = words(`Monday Tuesday Wednesday Thursday Friday Saturday Sunday`)
	months     = words(`January February March April May June July August September October November December`)
	adjectives = words(`old new big small quiet bright heavy light warm cold clean long short round flat soft hard
		strong simple fine cheap rare plain sharp smooth dry wet deep narrow wide`)
	places = words(`market school station library garden harbour bridge museum park farm mill forest river castle
		square tower church office shop kitchen workshop hospital hotel theatre village hill lake beach`)
	verbsPast = words(`found bought sold painted cleaned repaired carried lost opened closed moved counted weighed
		measured packed washed borrowed returned ordered described`)
	adverbs  = words(`slowly quickly quietly carefully often never always again early late soon today twice`)
	weathers = words(`sunny cloudy rainy windy foggy snowy stormy mild`)
	syllA    = words(`ba be bo da de do fa fe ga go ka ke ki ko la le li lo ma me mi mo na ne ni no pa pe po ra re ri ro sa se so ta te ti to va ve vi vo za ze zo`)
	syllB    = words(`n r l s m t k d x th nd rt lk st`)
)

func words(s string) []string { return strings.Fields(s) }

// person is a first and a last name.
func (r *rng) person() string { return r.one(firstNames) + " " + r.one(surnames) }

// strange is a word from syllables that is in no list, so that it can only be
// copied and never recalled.
func (r *rng) strange() string {
	var b strings.Builder
	for range r.in(2, 3) {
		b.WriteString(r.one(syllA))
	}
	if r.n(2) == 0 {
		b.WriteString(r.one(syllB))
	}
	s := b.String()
	return strings.ToUpper(s[:1]) + s[1:]
}

// article puts a or an before a word.
func article(word string) string {
	if strings.ContainsRune("aeiou", rune(word[0])) {
		return "an " + word
	}
	return "a " + word
}

// upper makes the first letter a capital.
func upper(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// list joins words as "a, b and c".
func list(w []string) string {
	if len(w) < 2 {
		return strings.Join(w, "")
	}
	return strings.Join(w[:len(w)-1], ", ") + " and " + w[len(w)-1]
}
