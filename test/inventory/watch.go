package inventory

// Watch remembers a machine, to tell later what changed on it.
type Watch struct {
	options Options
	before  Inventory
}

// NewWatch remembers the machine as it is now.
func NewWatch(o Options) Watch { return Watch{o, Take(o)} }

// Changes lists what differs by now, apart by what the caller says of each line of Diff: its own, and what others do to
// the machine meanwhile.
func (w Watch) Changes(ours func(line string) bool) (mine, others []string) {
	return apart(Diff(w.before, Take(w.options)), ours)
}

func apart(lines []string, ours func(line string) bool) (mine, others []string) {
	for _, line := range lines {
		if ours(line) {
			mine = append(mine, line)
		} else {
			others = append(others, line)
		}
	}
	return mine, others
}
