package session

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/nimbrel/nimbrel/dispatch"
	"pgregory.net/rapid"
)

const ownDoc = "host/h-1"

var topicDocs = []string{"vpc/a", "vpc/b"}

// commitNote is what the model remembers of one version of an item of the own document: the topics' sequences in the
// transaction that committed it, which the target must hold when it shows that version.
type commitNote struct {
	topics map[dispatch.SectionID]dispatch.Seq
}

// world runs a client, a server's session, a library, and the wires between them, by hand.
type world struct {
	t       *rapid.T
	fail    func(format string, args ...any)
	history string
	epoch   uint64
	lib     *Library
	notes   map[string]commitNote // history/section/key/rev
	deleted map[string]dispatch.Rev

	disk     map[dispatch.SectionID]*Sink
	diskMeta Meta
	client   *Client
	starts   uint64
	lastSeen map[string]dispatch.Rev // history/section/key: newest revision shown, over all restarts

	target *Target
	server *Server // nil: no connection
	up     [][]byte
	down   [][]byte
	actual map[string]map[string]string // what the target's owner reported
	mirror map[string]map[string]string // what the server's observer believes
}

// newWorld makes a world whose chances are drawn from t; without one no write fails.
func newWorld(t *rapid.T, fail func(string, ...any)) *world {
	w := &world{t: t, fail: fail, history: "h0", epoch: 1, lib: NewLibrary(), notes: map[string]commitNote{}, deleted: map[string]dispatch.Rev{},
		disk: map[dispatch.SectionID]*Sink{}, lastSeen: map[string]dispatch.Rev{}, target: NewTarget(),
		actual: map[string]map[string]string{}, mirror: map[string]map[string]string{}}
	w.startClient()
	return w
}

// commit is one transaction: a few changes of the own document and of topics, at the same instant.
func (w *world) commit() {
	var changes []change
	for range rapid.IntRange(1, 3).Draw(w.t, "changes") {
		doc := rapid.SampledFrom(append([]string{ownDoc, ownDoc}, topicDocs...)).Draw(w.t, "doc")
		id := dispatch.SectionID{Doc: doc, Section: rapid.SampledFrom([]string{"s", "u"}).Draw(w.t, "section")}
		key := rapid.SampledFrom([]string{"k1", "k2", "k3"}).Draw(w.t, "key")
		c := change{id: id, key: key, deleted: rapid.IntRange(0, 3).Draw(w.t, "delete") == 0}
		if doc == ownDoc && !c.deleted {
			c.topics = rapid.SampledFrom([][]string{nil, topicDocs[:1], topicDocs[1:], topicDocs}).Draw(w.t, "topics")
		}
		changes = append(changes, c)
	}
	w.apply(changes)
}

// change is one item of a transaction.
type change struct {
	id      dispatch.SectionID
	key     string
	deleted bool
	topics  []string
	rev     dispatch.Rev
}

// apply commits changes at one instant.
func (w *world) apply(changes []change) {
	var own []change
	for _, c := range changes {
		src := w.lib.Ensure(c.id)
		c.rev = src.Seq() + 1
		e := Entry{Item: dispatch.Item{Key: c.key, Rev: c.rev, Deleted: c.deleted}, Topics: c.topics}
		if c.deleted {
			w.deleted[w.itemKey(c.id, c.key)] = c.rev
		} else {
			e.Payload = fmt.Appendf(nil, "%s %v %s %d", w.history, c.id, c.key, c.rev)
			own = append(own, c)
		}
		if !src.Put(e) {
			w.fail("source refused revision %d of %v %s", c.rev, c.id, c.key)
		}
	}
	for _, c := range own {
		note := commitNote{topics: map[dispatch.SectionID]dispatch.Seq{}}
		if e, ok := w.lib.Section(c.id).Get(c.key); !ok || e.Rev != c.rev {
			continue
		} else {
			for _, doc := range e.Topics {
				for _, s := range w.lib.Sections(doc) {
					id := dispatch.SectionID{Doc: doc, Section: s}
					note.topics[id] = w.lib.Section(id).Seq()
				}
			}
		}
		w.notes[fmt.Sprintf("%s@%d", w.itemKey(c.id, c.key), c.rev)] = note
	}
}

func (w *world) itemKey(id dispatch.SectionID, key string) string {
	return w.history + "|" + id.String() + "|" + key
}

// collect forgets the oldest tombstones of a section, read or not.
func (w *world) collect() {
	for _, doc := range w.lib.Docs() {
		for _, s := range w.lib.Sections(doc) {
			src := w.lib.Section(dispatch.SectionID{Doc: doc, Section: s})
			if dead := src.Tombstones(); len(dead) > 0 {
				src.Collect(dead[0].Key)
				src.SetFloor(dead[0].Rev)
			}
		}
	}
}

// restore replaces the library by a shorter past under a new history.
func (w *world) restore() {
	w.history += "'"
	lib := NewLibrary()
	for _, doc := range w.lib.Docs() {
		for _, s := range w.lib.Sections(doc) {
			id := dispatch.SectionID{Doc: doc, Section: s}
			if rapid.IntRange(0, 3).Draw(w.t, "lose section") == 0 {
				continue
			}
			w.lib.Section(id).Each(func(e *Entry) bool {
				if e.Rev <= w.lib.Section(id).Seq()/2 {
					lib.Ensure(id).Put(*e)
				}
				return true
			})
		}
	}
	w.lib, w.target = lib, NewTarget()
	clear(w.mirror)
	w.disconnect()
}

func (w *world) startClient() {
	w.starts++
	w.disconnect()
	var sinks []*Sink
	for _, k := range w.disk {
		loaded := NewSink(k.ID, k.History)
		loaded.Seq = k.Seq
		for key, h := range k.Items {
			loaded.Load(key, h)
		}
		maps.Copy(loaded.Orphans, k.Orphans)
		if loaded.Sum() != k.Sum() || loaded.Recount() != k.Sum() {
			w.fail("%v: checksum from disk differs", k.ID)
		}
		sinks = append(sinks, loaded)
	}
	w.client = NewClient(ClientOptions{Target: ownDoc, Incarnation: w.starts}, w.diskMeta, sinks)
	clear(w.actual)
	w.run(w.client.Start())
}

func (w *world) disconnect() { w.server, w.up, w.down = nil, nil, nil }

func (w *world) connect() {
	w.disconnect()
	w.server = NewServer(w.lib, w.target, ServerOptions{Target: ownDoc, History: w.history, Epoch: w.epoch})
	w.run(w.client.Connect([]byte("info")))
}

// run does what a client's output says. A crash may come at each write; a write may fail.
func (w *world) run(out Output) {
	for queue := []Output{out}; len(queue) > 0; queue = queue[1:] {
		o := queue[0]
		if o.Close != nil {
			w.fail("client closes: %v", o.Close)
		}
		if o.Meta != nil {
			w.diskMeta = *o.Meta
		}
		for _, m := range o.Send {
			w.up = append(w.up, w.encode(m))
		}
		for _, k := range o.Stage {
			fate := 19
			if w.t != nil {
				fate = rapid.IntRange(0, 19).Draw(w.t, "fate of write")
			}
			switch {
			case fate == 0: // lost with the process
				w.startClient()
				return
			case fate == 1: // written, and then the process ends
				w.disk[k.ID] = k
				w.startClient()
				return
			case fate == 2:
				queue = append(queue, w.client.Abort(k, fmt.Errorf("disk full")))
			default:
				w.disk[k.ID] = k
				queue = append(queue, w.client.Commit(k))
			}
		}
		for _, id := range o.Drop {
			delete(w.disk, id)
		}
	}
}

func (w *world) encode(m Message) []byte {
	b, err := Encode(nil, m)
	if err != nil {
		w.fail("encode %+v: %v", m, err)
	}
	return b
}

func (w *world) decode(b []byte) Message {
	m, err := Decode(b)
	if err != nil {
		w.fail("decode: %v", err)
	}
	return m
}

func (w *world) deliverUp() {
	if w.server == nil || len(w.up) == 0 {
		return
	}
	m := w.decode(w.up[0])
	w.up = w.up[1:]
	if a, ok := m.(*Ack); ok && a.Durable > 0 && w.disk[a.ID] != nil && w.disk[a.ID].History == w.history && w.disk[a.ID].Seq < a.Durable {
		w.fail("%v acknowledged as durable at %d, disk has %d", a.ID, a.Durable, w.disk[a.ID].Seq)
	}
	out, events, err := w.server.Receive(m)
	if err != nil {
		w.fail("server: %v", err)
	}
	w.take(events)
	for _, m := range out {
		w.down = append(w.down, w.encode(m))
	}
}

func (w *world) pump() {
	if w.server == nil {
		return
	}
	out, events := w.server.Pump()
	w.take(events)
	for _, m := range out {
		w.down = append(w.down, w.encode(m))
	}
}

func (w *world) take(events []Event) {
	for _, e := range events {
		switch e := e.(type) {
		case *Alarm:
			w.fail("alarm without a defect: %v: %s", e.ID, e.Reason)
		case *Nacked:
			if strings.Contains(e.Reason, "checksum") {
				w.fail("refused without a defect: %v: %s", e.ID, e.Reason)
			}
		case *Actual:
			if e.Full || w.mirror[e.Section] == nil {
				w.mirror[e.Section] = map[string]string{}
			}
			for _, it := range e.Upserts {
				w.mirror[e.Section][it.Key] = string(it.Payload)
			}
			for _, key := range e.Deletes {
				delete(w.mirror[e.Section], key)
			}
		}
	}
}

func (w *world) deliverDown() {
	if w.server == nil || len(w.down) == 0 {
		return
	}
	m := w.decode(w.down[0])
	w.down = w.down[1:]
	w.run(w.client.Receive(m))
}

func (w *world) report() {
	section := rapid.SampledFrom([]string{"instances", "interfaces"}).Draw(w.t, "reported section")
	key := rapid.SampledFrom([]string{"r1", "r2", "r3"}).Draw(w.t, "reported key")
	if w.actual[section] == nil {
		w.actual[section] = map[string]string{}
	}
	if rapid.IntRange(0, 2).Draw(w.t, "unreport") == 0 {
		w.client.Unreport(section, key)
		delete(w.actual[section], key)
	} else {
		v := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(w.t, "value")
		w.client.Report(section, key, []byte(v))
		w.actual[section][key] = v
	}
	w.run(w.client.PumpActual())
}

// check holds at every moment.
func (w *world) check() {
	for id, k := range w.client.Sections() {
		if k.Sum() != k.Recount() {
			w.fail("%v: checksum kept %v, counted %v", id, k.Sum(), k.Recount())
		}
		if id.Doc == ownDoc && k.History == w.history && w.diskMeta.History == w.history {
			w.checkShown(id, k)
		}
	}
}

func (w *world) checkShown(id dispatch.SectionID, k *Sink) {
	sections := w.client.Sections()
	for key, h := range k.Items {
		if h.Shown == nil || !bytes.HasPrefix(h.Shown.Payload, []byte(w.history+" ")) {
			continue // not shown, or written under an older history
		}
		at := w.itemKey(id, key)
		if h.Shown.Rev < w.lastSeen[at] {
			w.fail("%v %s went back from %d to %d", id, key, w.lastSeen[at], h.Shown.Rev)
		}
		w.lastSeen[at] = h.Shown.Rev
		for topic, seq := range w.notes[fmt.Sprintf("%s@%d", at, h.Shown.Rev)].topics {
			if held := sections[topic]; seq > 0 && (held == nil || held.History != w.history || held.Seq < seq) {
				w.fail("%v %s shown at %d without %v at %d: holds %+v", id, key, h.Shown.Rev, topic, seq, held)
			}
		}
	}
	for at, rev := range w.lastSeen {
		prefix := w.history + "|" + id.String() + "|"
		if key, ours := bytes.CutPrefix([]byte(at), []byte(prefix)); ours {
			if h := k.Items[string(key)]; h.Shown == nil && w.deleted[at] <= rev {
				w.fail("%v %s shown at %d is absent and was never deleted", id, key, rev)
			}
		}
	}
}

// settle lets everything arrive and compares both ends.
func (w *world) settle() {
	if w.server == nil {
		w.connect()
	}
	for round := 0; ; round++ {
		for len(w.up)+len(w.down) > 0 || w.server == nil {
			if w.server == nil {
				w.connect()
			}
			w.deliverUp()
			w.pump()
			w.deliverDown()
			w.check()
		}
		if w.agree() == "" {
			return
		}
		if round > 60 { // a write fails one time in ten and costs a heartbeat
			w.fail("ends never agree: %s", w.agree())
		}
		w.run(w.client.Heartbeat())
		w.run(w.client.PumpActual())
		if w.server == nil { // a crash came with it
			continue
		}
		w.pump()
	}
}

// agree names the first difference of the two ends.
func (w *world) agree() string {
	docs := append([]string{ownDoc}, slices.Collect(maps.Keys(w.lib.topics(ownDoc)))...)
	sections := w.client.Sections()
	want := 0
	for _, doc := range docs {
		for _, s := range w.lib.Sections(doc) {
			want++
			id := dispatch.SectionID{Doc: doc, Section: s}
			src, k := w.lib.Section(id), sections[id]
			if k == nil || k.Seq != src.Seq() || k.Sum() != src.Sum() || k.Pending() != 0 || len(k.Items) != src.Live() {
				return fmt.Sprintf("%v at %d: target has %+v", id, src.Seq(), k)
			}
			for key, h := range k.Items {
				if e, _ := src.Get(key); h.Shown == nil || !bytes.Equal(h.Shown.Payload, e.Payload) {
					return fmt.Sprintf("%v %s differs", id, key)
				}
			}
		}
	}
	for id := range sections {
		if w.lib.Section(id) != nil && !slices.Contains(docs, id.Doc) {
			return fmt.Sprintf("%v is still held", id)
		}
	}
	for section, items := range w.actual {
		if !maps.Equal(items, w.mirror[section]) {
			return fmt.Sprintf("reports of %s: %v, server has %v", section, items, w.mirror[section])
		}
	}
	return ""
}

// TestModel runs random histories of commits, losses, crashes and restarts of either end, and compares with what must be.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, t.Fatalf)
		t.Repeat(map[string]func(*rapid.T){
			"commit":      func(t *rapid.T) { w.t = t; w.commit() },
			"commit too":  func(t *rapid.T) { w.t = t; w.commit() },
			"connect":     func(t *rapid.T) { w.t = t; w.connect() },
			"disconnect":  func(t *rapid.T) { w.t = t; w.disconnect() },
			"up":          func(t *rapid.T) { w.t = t; w.deliverUp() },
			"down":        func(t *rapid.T) { w.t = t; w.deliverDown() },
			"down 2":      func(t *rapid.T) { w.t = t; w.pump(); w.deliverDown() },
			"both":        func(t *rapid.T) { w.t = t; w.deliverUp(); w.pump(); w.deliverDown(); w.deliverDown() },
			"pump":        func(t *rapid.T) { w.t = t; w.pump() },
			"report too":  func(t *rapid.T) { w.t = t; w.report(); w.report(); w.report() },
			"report":      func(t *rapid.T) { w.t = t; w.report() },
			"heartbeat":   func(t *rapid.T) { w.t = t; w.run(w.client.Heartbeat()) },
			"settle":      func(t *rapid.T) { w.t = t; w.settle() },
			"collect":     func(t *rapid.T) { w.t = t; w.collect() },
			"kill client": func(t *rapid.T) { w.t = t; w.startClient() },
			"kill server": func(t *rapid.T) { w.t = t; w.disconnect(); w.target = NewTarget(); clear(w.mirror) },
			"resend": func(t *rapid.T) {
				w.t = t
				if w.server != nil && w.server.Open() {
					w.server.ResendAll()
				}
			},
			"restore": func(t *rapid.T) {
				w.t = t
				if rapid.IntRange(0, 4).Draw(t, "restore now") == 0 {
					w.restore()
				}
			},
			"raise epoch": func(t *rapid.T) { w.t = t; w.epoch++; w.disconnect() },
			"":            func(t *rapid.T) { w.t = t; w.check() },
		})
		w.t = t
		w.settle()
	})
}

// TestEveryShortHistory walks every sequence of a few steps from a small set: an item that needs a topic is committed
// with it, changed without it, deleted; messages arrive or are lost with the connection; either end starts anew.
func TestEveryShortHistory(t *testing.T) {
	depth := 5
	if testing.Short() {
		depth = 4
	}
	own := dispatch.SectionID{Doc: ownDoc, Section: "s"}
	topic := dispatch.SectionID{Doc: topicDocs[0], Section: "s"}
	steps := []struct {
		name string
		do   func(*world)
	}{
		{"put", func(w *world) { w.apply([]change{{id: topic, key: "k"}, {id: own, key: "k", topics: topicDocs[:1]}}) }},
		{"free", func(w *world) { w.apply([]change{{id: own, key: "k"}}) }},
		{"delete", func(w *world) { w.apply([]change{{id: own, key: "k", deleted: true}}) }},
		{"up", func(w *world) { w.deliverUp(); w.pump() }},
		{"down", (*world).deliverDown},
		{"connect", (*world).connect},
		{"kill", (*world).startClient},
	}
	path := make([]int, depth)
	for walked := 0; ; walked++ {
		var names []string
		w := newWorld(nil, func(format string, args ...any) {
			t.Fatalf("after %v: "+format, append([]any{names}, args...)...)
		})
		w.connect()
		for range 4 { // the hello and its answer are behind us in most histories of interest
			w.deliverUp()
			w.pump()
			w.deliverDown()
		}
		for _, i := range path {
			names = append(names, steps[i].name)
			steps[i].do(w)
			w.check()
		}
		w.settle()
		at := 0
		for at < depth && path[at] == len(steps)-1 {
			path[at] = 0
			at++
		}
		if at == depth {
			t.Logf("%d histories of %d steps", walked+1, depth)
			return
		}
		path[at]++
	}
}
