package pack

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// File type and permission bits as Unix and the cpio format write them.
const (
	typeDir  = 0o040000
	typeFile = 0o100000
	typeLink = 0o120000
	typeChar = 0o020000
	setuid   = 0o004000
)

// node is one entry of a file tree. Group and user are the same number.
type node struct {
	path string // relative, slash-separated
	mode uint32 // type and permissions
	uid  uint32
	data []byte // content, or a link's target
	dev  [2]uint32
}

// tree is a list of nodes, each directory before what it holds. It is written to a staging directory and to a cpio
// archive without ever needing the right to create such files on this machine.
type tree []node

func (t *tree) dir(mode uint32, paths ...string) {
	for _, path := range paths {
		*t = append(*t, node{path: path, mode: typeDir | mode})
	}
}

func (t *tree) file(path string, mode uint32, data []byte) {
	*t = append(*t, node{path: path, mode: typeFile | mode, data: data})
}

func (t *tree) text(path, text string) { t.file(path, 0o644, []byte(text)) }

func (t *tree) link(path, target string) {
	*t = append(*t, node{path: path, mode: typeLink | 0o777, data: []byte(target)})
}

// digest feeds a description of the whole tree to h.
func (t tree) digest(h io.Writer) {
	for _, n := range t {
		fmt.Fprintf(h, "%q %o %d %d %x\n", n.path, n.mode, n.uid, n.dev, sha256.Sum256(n.data))
	}
}

// stage writes the tree below dir, as far as an unprivileged user can: owners are set later, in the file system.
func (t tree) stage(dir string) error {
	for _, n := range t {
		path := filepath.Join(dir, filepath.FromSlash(n.path))
		var err error
		switch n.mode &^ 0o7777 {
		case typeDir:
			err = os.Mkdir(path, 0o755)
		case typeFile:
			err = os.WriteFile(path, n.data, 0o644)
		case typeLink:
			err = os.Symlink(string(n.data), path)
		default:
			err = fmt.Errorf("mode %o cannot be staged", n.mode)
		}
		if err != nil {
			return fmt.Errorf("stage %s: %w", n.path, err)
		}
	}
	return nil
}

// debugfsScript gives every inode its mode, owner and time. mke2fs -d copied those of the staging directory, which
// belong to whoever builds.
func (t tree) debugfsScript() []byte {
	var script bytes.Buffer
	for _, n := range t {
		set := func(field string, value any) {
			fmt.Fprintf(&script, "set_inode_field \"/%s\" %s %v\n", n.path, field, value)
		}
		set("mode", fmt.Sprintf("0%o", n.mode))
		set("uid", n.uid)
		set("gid", n.uid)
		for _, field := range []string{"atime", "ctime", "mtime", "crtime"} {
			set(field, fmt.Sprintf("@%d", buildTime.Unix()))
		}
	}
	return script.Bytes()
}

// cpio writes the tree in the "newc" format that the kernel unpacks.
func (t tree) cpio(w io.Writer) error {
	for i, n := range append(slices.Clone(t), node{path: "TRAILER!!!"}) {
		name := n.path + "\x00"
		header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
			i+1, n.mode, n.uid, n.uid, 1, uint32(buildTime.Unix()), len(n.data), 0, 0, n.dev[0], n.dev[1], len(name), 0)
		entry := pad4(header+name) + pad4(string(n.data))
		if _, err := io.WriteString(w, entry); err != nil {
			return fmt.Errorf("write archive entry %s: %w", n.path, err)
		}
	}
	return nil
}

func pad4(text string) string { return text + strings.Repeat("\x00", -len(text)&3) }

// compressedCPIO is the tree as an initramfs.
func (t tree) compressedCPIO() ([]byte, error) {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.DefaultCompression)
	if err != nil {
		return nil, err
	}
	if err := t.cpio(z); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
