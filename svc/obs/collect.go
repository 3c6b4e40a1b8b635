package obs

import "github.com/prometheus/client_golang/prometheus"

// Family is one metric with the labels that tell its series apart. Names end in their unit, or in _total for a count
// that only grows; the values of a label come from a fixed list.
type Family struct {
	Name, Help string
	Labels     []string
	Counter    bool // grows only; otherwise it is a gauge
}

// Emit gives one series' value as of now. values are of the family's labels, in order.
type Emit func(family string, value float64, values ...string)

// Register makes the families part of the registry. read is called at each scrape and emits what there is; it may be
// called several times at once, and must not wait for anything slow. Emitting what is not a family's panics.
func Register(r *prometheus.Registry, families []Family, read func(Emit)) {
	c := &collector{read: read, families: map[string]family{}}
	for _, f := range families {
		kind := prometheus.GaugeValue
		if f.Counter {
			kind = prometheus.CounterValue
		}
		c.families[f.Name] = family{prometheus.NewDesc(f.Name, f.Help, f.Labels, nil), kind}
	}
	r.MustRegister(c)
}

type family struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

type collector struct {
	families map[string]family
	read     func(Emit)
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, f := range c.families {
		out <- f.desc
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	c.read(func(name string, value float64, values ...string) {
		f := c.families[name]
		out <- prometheus.MustNewConstMetric(f.desc, f.kind, value, values...)
	})
}

// RegisterHistogram makes one histogram part of the registry, whose counts somebody else keeps. read returns the upper
// bounds of the buckets with the cumulative count of each, the count of all and their sum.
func RegisterHistogram(r *prometheus.Registry, name, help string, read func() (buckets map[float64]uint64, count uint64, sum float64)) {
	r.MustRegister(&histogram{prometheus.NewDesc(name, help, nil, nil), read})
}

type histogram struct {
	desc *prometheus.Desc
	read func() (map[float64]uint64, uint64, float64)
}

// Describe implements prometheus.Collector.
func (h *histogram) Describe(out chan<- *prometheus.Desc) { out <- h.desc }

// Collect implements prometheus.Collector.
func (h *histogram) Collect(out chan<- prometheus.Metric) {
	buckets, count, sum := h.read()
	out <- prometheus.MustNewConstHistogram(h.desc, count, sum, buckets)
}
