package mvcc

import (
	"bytes"
	"fmt"
	"math/bits"

	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/store/internal/pool"
)

// maxPoolPages bounds the pages of one pool that are held to be compared: 64 MiB.
const maxPoolPages = 1 << 18

// pool notes the prefix of what may be a pool, by the name of its size.
func (v *verifier) pool(key []byte) {
	if prefix, found := bytes.CutSuffix(key, pool.SizeKey(nil)); found {
		v.pooled = append(v.pooled, bytes.Clone(prefix))
	}
}

// pools recounts each pool. Other rows may have a pool's names: one is taken for a pool only when its size and its count
// are integers and it has a page.
func (v *verifier) pools() error {
	for _, prefix := range v.pooled {
		size, err := v.state.Get(pool.SizeKey(prefix), v.last)
		if err != nil {
			return err
		}
		free, err := v.state.Get(pool.FreeKey(prefix), v.last)
		if err != nil {
			return err
		}
		if size.Value.Kind != store.KindInt64 || free.Value.Kind != store.KindInt64 || size.Value.Int <= 0 || uint64(size.Value.Int) > pool.MaxSize {
			continue
		}
		pages, err := v.pages(prefix, uint64(size.Value.Int))
		if err != nil {
			return err
		}
		if len(pages) == 0 {
			continue
		}
		last, err := v.state.Get(pool.LastKey(prefix), v.last)
		if err != nil {
			return err
		}
		v.counts.Pools++
		name := fmt.Sprintf("pool %q", prefix)
		v.recount(name, pages, uint64(size.Value.Int), free.Value.Int)
		if last.Found && (last.Value.Kind != store.KindInt64 || last.Value.Int < 0 || last.Value.Int >= size.Value.Int) {
			v.problem("pool hint", name, "the last taken is %d of %d", last.Value.Int, size.Value.Int)
		}
	}
	return nil
}

type pageName struct {
	level  int
	number uint64
}

// pages reads the pages that a pool has written.
func (v *verifier) pages(prefix []byte, size uint64) (map[pageName][]byte, error) {
	pages := map[pageName][]byte{}
	for level, n := 0, size; level < pool.Levels(size); level++ {
		n = (n + pool.PageBits - 1) / pool.PageBits
		rows, err := v.state.rows(store.RangeOptions{Begin: pool.PageKey(prefix, level, 0), End: pool.PageKey(prefix, level, n), Limit: maxPoolPages + 1}, v.last, func() error { return nil })
		if err != nil {
			return nil, err
		}
		for _, kv := range rows {
			number, ok := pool.PageNumber(prefix, level, kv.Key)
			if !ok || kv.Value.Kind != store.KindBytes || len(kv.Value.Bytes) != pool.PageBytes {
				return nil, nil
			}
			pages[pageName{level, number}] = kv.Value.Bytes
		}
		if len(pages) > maxPoolPages {
			v.problem("pool bounds", fmt.Sprintf("pool %q", prefix), "more than %d pages: not recounted", maxPoolPages)
			return nil, nil
		}
	}
	return pages, nil
}

// recount compares a pool's count with its pages, and each summary with what it sums up. A page that is not there is all
// free.
func (v *verifier) recount(name string, pages map[pageName][]byte, size uint64, free int64) {
	counts := []uint64{size} // bits of each level
	for n := size; n > pool.PageBits; {
		n = (n + pool.PageBits - 1) / pool.PageBits
		counts = append(counts, n)
	}
	counted := int64(size)
	for at, page := range pages {
		own := min(pool.PageBits, counts[at.level]-at.number*pool.PageBits)
		set := uint64(0)
		for i, b := range page {
			set += uint64(bits.OnesCount8(b))
			if rest := int(own) - 8*i; rest < 8 && b>>max(rest, 0) != 0 {
				v.problem("pool pages", name, "page %d of level %d has bits beyond the pool's end", at.number, at.level)
				break
			}
		}
		if at.level == 0 {
			counted -= int64(own) - int64(set)
		}
		v.summary(name, pages, at, set > 0, len(counts))
		if at.level > 0 {
			v.emptied(name, pages, at, own)
		}
	}
	if counted != free {
		v.problem("pool count", name, "%d free elements are counted, its pages have %d", free, counted)
	}
}

// summary looks at the bit above a page.
func (v *verifier) summary(name string, pages map[pageName][]byte, at pageName, any bool, levels int) {
	if at.level+1 >= levels {
		return
	}
	above, written := pages[pageName{at.level + 1, at.number / pool.PageBits}]
	bit := at.number % pool.PageBits
	shows := !written || above[bit/8]&(1<<(bit%8)) != 0
	if shows != any {
		v.problem("pool summary", name, "page %d of level %d has free ones: %v, the level above says %v", at.number, at.level, any, shows)
	}
}

// emptied looks below the clear bits of a summary: only a page that is written can be empty.
func (v *verifier) emptied(name string, pages map[pageName][]byte, at pageName, own uint64) {
	for bit := range own {
		if below := (pageName{at.level - 1, at.number*pool.PageBits + bit}); at.level > 0 && pages[at][bit/8]&(1<<(bit%8)) == 0 && pages[below] == nil {
			v.problem("pool summary", name, "page %d of level %d is said to be empty, and is not there", below.number, below.level)
		}
	}
}
