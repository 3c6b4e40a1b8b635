package main

import "time"

const (
	coreFile     = "store/internal/core/core.go"
	outboxFile   = "store/internal/core/outbox.go"
	recentFile   = "store/internal/core/recent.go"
	evaluateFile = "store/internal/transactor/evaluate.go"
	sessionsFile = "store/internal/transactor/sessions.go"
	poolFile     = "store/internal/transactor/pool.go"
)

// pure breaks the store's pure core; the exhaustive search has to see each.
var pure = suite{
	pkg:   "./store/internal/core",
	args:  []string{"-test.run=^TestSearch$", "-search.mutant"},
	limit: 10 * time.Second,
	mutants: []mutant{
		{"early success", early("a.Outcome == store.OutcomeCommitted && stepped[a]")},
		{"early conflict", early("a.Outcome == store.OutcomeConflict")},
		{"early guard failure", early("a.Outcome == store.OutcomeGuardFailed && stepped[a]")},
		{"early duplicate answer", early("a.Outcome != store.OutcomeConflict && a.Outcome != store.OutcomeRefused && !stepped[a]")},
		{"early refusal", early("a.Outcome == store.OutcomeRefused && stepped[a]")},
		{"released with the batch before", []edit{{outboxFile, "	for n > 0 && o.pending[n-1].At != at {\n		n--\n	}\n",
			"	for n > 0 && o.pending[n-1].At != at {\n		n--\n	}\n	if n > 0 && n < len(o.pending) {\n		n++\n	}\n"}}},
		{"released although lost", []edit{{outboxFile, "	o.pending = o.pending[:n:n]\n	return lost\n",
			"	if n > 0 {\n		o.pending = o.pending[:n:n]\n	}\n	return lost\n"}}},
		{"dropped outcome record", []edit{{sessionsFile, "	known.records[r.ID.Seq] = r\n", ""}}},
		{"records forgotten by a restart", []edit{{coreFile, "func(r transactor.Record) { c.sessions.Keep(r) }", "func(transactor.Record) {}"}}},
		{"guard failure not remembered", []edit{{evaluateFile, "	return s.remember(in, effect), nil\n",
			"	if effect.Answer.Outcome == store.OutcomeGuardFailed {\n		return effect, nil\n	}\n	return s.remember(in, effect), nil\n"}}},
		{"refusal of a state not remembered", []edit{{evaluateFile, "	return s.remember(in, effect), nil\n",
			"	if effect.Answer.Outcome == store.OutcomeRefused {\n		return effect, nil\n	}\n	return s.remember(in, effect), nil\n"}}},
		{"cancel not remembered", []edit{{evaluateFile, "return s.remember(in, Effect{Answer: &store.Answer{Outcome: store.OutcomeCancelled}}), nil",
			"return Effect{Answer: &store.Answer{Outcome: store.OutcomeCancelled}}, nil"}}},
		{"late duplicate accepted", []edit{{sessionsFile, "	if c.ID.Seq < known.ackedBelow {\n", "	if c.ID.Seq+1000 < known.ackedBelow {\n"}}},
		{"acknowledgement expires early", []edit{{sessionsFile, "		notAfterMs = max(notAfterMs, known.lastMs)\n", "		_ = known\n"}}},
		{"skip range validation", []edit{{evaluateFile, "		if version != 0 {\n", "		if version != 0 && r.End == nil {\n"}}},
		{"skip key validation", []edit{{evaluateFile, "		if version != 0 {\n", "		if version != 0 && r.End != nil {\n"}}},
		{"conflict window without overlay", []edit{{recentFile, "			if row.version > after {\n", "			if row.version > after && row.version <= l.recent.shown {\n"}}},
		{"stale read", []edit{{outboxFile, "o.durable = Mark{At: b.At, Version: b.Version,", "o.durable = Mark{At: b.At, Version: max(b.Version, 2) - 1,"}}},
		{"speculative read", []edit{{outboxFile, "{ return o.durable.Version }",
			"{\n	if n := len(o.pending); n > 0 {\n		return o.pending[n-1].Version\n	}\n	return o.durable.Version\n}"}}},
		{"take order broken", []edit{{poolFile, "last.Found && next > op.From", "last.Found && next > op.From+8"}}},
		{"element handed out twice", []edit{{poolFile, "	return p.set(0, element, free)\n", "	return p.set(0, element, true)\n"}}},
		{"loss leaves sessions", []edit{{coreFile, "	c.sessions = transactor.Sessions{}\n", ""}}},
		{"loss leaves the overlay", []edit{{coreFile, "	c.recent = newRecent(last.Version, c.options.RecentRows)\n",
			"	if c.recent.rows == nil {\n		c.recent = newRecent(last.Version, c.options.RecentRows)\n	}\n"}}},
		{"term ignored", []edit{{coreFile, "return b.Base == last ", "return b.Base.Entry == last.Entry "}}},
		{"base ignored", []edit{{coreFile, "return b.Base == last ", "return last.Entry >= b.Base.Entry || b.Base.Term > 0 "}}},
	},
}

// early lets answers of one kind leave at once.
func early(which string) []edit {
	return []edit{
		{outboxFile, "	o.pending = append(o.pending, b)\n	return o.release(o.durable.At)\n",
			"	o.pending = append(o.pending, b)\n	if out := o.release(o.durable.At); len(out) > 0 {\n		return out\n	}\n	return early(b)\n"},
		{outboxFile, "", `
func early(b *Batch) []Released {
	stepped := map[*store.Answer]bool{}
	for _, s := range b.Steps {
		stepped[s.Record.Answer] = true
	}
	out := make([]*store.Answer, len(b.answers))
	some := false
	for i, a := range b.answers {
		if ` + which + ` {
			out[i], some = a, true
		}
	}
	if !some {
		return nil
	}
	return []Released{{Batch: b, Answers: out}}
}
`},
	}
}
