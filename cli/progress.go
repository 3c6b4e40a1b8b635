package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

const (
	barCells  = 30
	barEvery  = 100 * time.Millisecond
	lineEvery = 10 // per cent
)

// progress shows how far a long command is: a bar on a terminal, a line for every tenth elsewhere. A nil progress shows
// nothing. It is for one goroutine.
type progress struct {
	w        io.Writer
	terminal bool
	phase    string
	shown    int       // per cent, in lines
	last     time.Time // of the bar
	drawn    bool      // a bar is on the current line
}

func newProgress(w io.Writer) *progress {
	f, ok := w.(*os.File)
	return &progress{w: w, terminal: ok && term.IsTerminal(int(f.Fd())), shown: -1}
}

// step says that done of total bytes of a phase are done.
func (p *progress) step(phase string, done, total uint64) {
	if p == nil || total == 0 {
		return
	}
	percent := int(done * 100 / total)
	if phase != p.phase {
		p.end()
		p.phase, p.shown, p.last = phase, -1, time.Time{}
	}
	if p.terminal {
		p.bar(percent, done, total)
		return
	}
	if tenth := percent / lineEvery * lineEvery; tenth > p.shown {
		p.shown = tenth
		fmt.Fprintf(p.w, "image: %s %d%% of %s\n", phase, tenth, size(total))
	}
}

func (p *progress) bar(percent int, done, total uint64) {
	if now := time.Now(); now.Sub(p.last) < barEvery && done < total {
		return
	}
	p.last, p.drawn = time.Now(), true
	full := percent * barCells / 100
	fmt.Fprintf(p.w, "\r%-10s [%s%s] %3d%%  %s of %s\x1b[K", p.phase, strings.Repeat("#", full), strings.Repeat(".", barCells-full), percent, size(done), size(total))
}

// say writes a line of its own.
func (p *progress) say(format string, arguments ...any) {
	if p != nil {
		p.end()
		fmt.Fprintf(p.w, "image: "+format+"\n", arguments...)
	}
}

// end leaves the bar's line.
func (p *progress) end() {
	if p != nil && p.drawn {
		p.drawn = false
		fmt.Fprintln(p.w)
	}
}

// size prints bytes for people.
func size(bytes uint64) string {
	switch {
	case bytes >= 10<<30:
		return fmt.Sprintf("%d GiB", bytes>>30)
	case bytes >= 1<<20:
		return fmt.Sprintf("%d MiB", bytes>>20)
	}
	return fmt.Sprintf("%d KiB", (bytes+1023)>>10)
}
