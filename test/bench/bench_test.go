package bench

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(100 - i) // in no order that sorting would leave
	}
	for _, c := range []struct {
		all  []float64
		q    float64
		want float64
	}{
		{nil, 0.5, 0}, {[]float64{7}, 0, 7}, {[]float64{7}, 1, 7}, {[]float64{3, 1, 2}, 0.5, 2}, {[]float64{4, 1, 3, 2}, 0.5, 2},
		{hundred, 0.5, 50}, {hundred, 0.07, 7}, {hundred, 0.99, 99}, {hundred, 1, 100}, {hundred[:10], 0.99, 100},
	} {
		if got := Quantile(c.all, c.q); got != c.want {
			t.Errorf("Quantile(%v, %v) = %v, want %v", c.all, c.q, got, c.want)
		}
	}
	if hundred[0] != 100 {
		t.Error("Quantile changed the order of what it was given")
	}
	if got := Median([]time.Duration{3, 9, 1}); got != 3 {
		t.Errorf("median of 3, 9, 1 is %d", got)
	}
}

func TestLine(t *testing.T) {
	for _, c := range []struct {
		figure Figure
		want   string
	}{
		{Figure{Name: "run_conflicts", Unit: "count"}, "figure part.run_conflicts 0 count fsync_us=250"},
		{Figure{Name: "launches_per_s", Value: 19494.4, Unit: "launches/s"}, "figure part.launches_per_s 19494 launches/s fsync_us=250"},
		{Figure{Name: "p99_ms", Value: 12.34567, Unit: "ms", Detail: "rounds=5"}, "figure part.p99_ms 12.35 ms fsync_us=250 rounds=5"},
		{Ratio("stored", 1<<20, 1<<30, ""), "figure part.stored 0.0009766 x num=1048576 den=1073741824 fsync_us=250"},
		{
			RatioOfMedians("over", []time.Duration{3 * time.Second, time.Hour, 0}, []time.Duration{2 * time.Second}),
			"figure part.over 1.5 x num=3s den=2s fsync_us=250",
		},
	} {
		if got := c.figure.line("part", 250*time.Microsecond+999); got != c.want {
			t.Errorf("line is\n%s, want\n%s", got, c.want)
		}
	}
}

func TestRefuseStalls(t *testing.T) {
	taken := make([]time.Duration, judgedSyncs)
	for i := range taken {
		taken[i] = time.Millisecond
	}
	taken[0], taken[1] = time.Second, time.Second
	if err := refuseStalls("/disk", taken); err != nil {
		t.Errorf("a disk of which one sync in a hundred stalls is refused: %v", err)
	}
	taken[2] = stallBound + 1
	if err := refuseStalls("/disk", taken); err == nil || !strings.Contains(err.Error(), "--dir") {
		t.Errorf("a disk that stalls: %v, want a refusal that says what to do", err)
	}
}

// onDisk is a directory that Start takes, or skips the test.
func onDisk(t *testing.T) string {
	t.Helper()
	for _, dir := range []string{t.TempDir(), "."} {
		if refuseMemory(dir) == nil {
			if dir != "." {
				return dir
			}
			dir, err := os.MkdirTemp(".", "test-")
			if err != nil {
				t.Skip("no directory on a disk:", err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			return dir
		}
	}
	t.Skip("no directory on a disk")
	return ""
}

func start(t *testing.T, out *bytes.Buffer, results string) *Run {
	t.Helper()
	r, err := Start(Options{Part: "part", Dir: onDisk(t), Results: results, Out: out})
	if err != nil && strings.Contains(err.Error(), "99th percentile") {
		t.Skip("the disk stalls:", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRun(t *testing.T) {
	var out bytes.Buffer
	results := filepath.Join(t.TempDir(), "results")
	r := start(t, &out, results)
	if info, err := os.Stat(r.Dir()); err != nil || !filepath.IsAbs(r.Dir()) || info.Mode().Perm() != 0o755 {
		t.Errorf("folder %s: %v, %v", r.Dir(), info, err)
	}
	r.AtMost(Figure{Name: "good_ms", Value: 20, Unit: "ms"}, 20, nil)
	r.Check("whole", "12 recounted", nil)
	if err := r.Finish(nil); err != nil {
		t.Errorf("a run in which all holds ends with %v", err)
	}
	want := regexp.MustCompile(`^figure part\.good_ms 20 ms fsync_us=\d+\ncheck part\.good_ms ok \(at most 20\)\ncheck part\.whole ok \(12 recounted\)\n$`)
	kept, err := os.ReadFile(filepath.Join(results, "part.txt"))
	if err != nil || !want.Match(kept) || out.String() != string(kept) {
		t.Errorf("printed\n%skept (%v)\n%s", out.String(), err, kept)
	}
	if _, err := os.Stat(r.Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the run's folder after its end: %v", err)
	}
}

func TestWhatFailsIsSaidAndReturned(t *testing.T) {
	var out bytes.Buffer
	r := start(t, &out, "")
	r.AtMost(Figure{Name: "over", Value: 20.4, Unit: "ms"}, 20, nil)
	r.AtMost(Figure{Name: "nan", Value: math.NaN(), Unit: "x"}, 20, nil)
	r.AtMost(Figure{Name: "none"}, 20, errors.New("no host\nat all"))
	r.Check("broken", "never shown", errors.New("2 of 3"))
	err := r.Finish(errors.New("interrupted"))
	for _, line := range []string{
		"check part.over FAIL 20.4 ms, goal at most 20\n", "check part.nan FAIL NaN x, goal at most 20\n",
		"check part.none FAIL no host\n", "check part.broken FAIL 2 of 3\n",
	} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("no line %q in\n%s", line, out.String())
		}
	}
	if strings.Contains(out.String(), "figure part.none") {
		t.Error("a figure was printed that there is none of")
	}
	for _, part := range []string{"over: ", "nan: ", "none: ", "broken: ", "interrupted"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("the run ends with %v, want %q in it", err, part)
		}
	}
}
