package bench

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"
)

// Figure is one measured value.
type Figure struct {
	// Name is the value's within the part, with its unit last: "rss_mib".
	Name string
	// Value is finite; what is not has not been measured, and is within no goal.
	Value float64
	// Unit is a word: "ms", "launches/s", "x" of a quotient.
	Unit string
	// Detail is more of what the value was made of, as "name=value" words; may be "".
	Detail string

	quotient string
}

// Ratio is the quotient of two values of one unit, which is "" for plain numbers.
func Ratio(name string, num, den float64, unit string) Figure {
	return Figure{
		Name: name, Value: num / den, Unit: "x", quotient: fmt.Sprintf(" num=%s%s den=%s%s", number(num), unit, number(den), unit),
	}
}

// RatioOfMedians is the quotient of two medians of times, which are shown in seconds.
func RatioOfMedians(name string, num, den []time.Duration) Figure {
	return Ratio(name, Median(num).Seconds(), Median(den).Seconds(), "s")
}

func (f Figure) line(part string, sync time.Duration) string {
	line := fmt.Sprintf("figure %s.%s %s %s%s fsync_us=%d", part, f.Name, number(f.Value), f.Unit, f.quotient, sync.Microseconds())
	if f.Detail != "" {
		line += " " + f.Detail
	}
	return line
}

// number writes whole numbers whole and others to four digits, never with an exponent for what a person counts.
func number(v float64) string {
	if whole := math.Round(v); math.Abs(v) >= 1000 && math.Abs(v) < 1<<53 || v == whole && math.Abs(v) < 1<<53 {
		return strconv.FormatFloat(whole, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}

// Milliseconds is a time in milliseconds, to the microsecond.
func Milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// Median is the least value that half of all values do not exceed; 0 of none.
func Median[T time.Duration | float64](all []T) T { return Quantile(all, 0.5) }

// Quantile is the least value that a share q of all values, 0 to 1, does not exceed: always one that was measured, the
// greatest of few. It is 0 of none. The order of all is left as it is.
func Quantile[T time.Duration | float64](all []T, q float64) T {
	if len(all) == 0 {
		return 0
	}
	const rounding = 1e-9 // 0.07*100 is more than 7
	rank := int(math.Ceil(q*float64(len(all)) - rounding))
	return slices.Sorted(slices.Values(all))[min(max(rank, 1), len(all))-1]
}
