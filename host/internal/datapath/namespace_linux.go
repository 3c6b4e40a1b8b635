package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespace is an open network namespace with a netlink socket in it.
type namespace struct {
	path   string
	handle netns.NsHandle
	links  *netlink.Handle
}

// openNamespace opens the namespace at path, or the caller's own for "".
func openNamespace(path string) (*namespace, error) {
	handle, err := netns.Get()
	if path != "" {
		handle, err = netns.GetFromPath(path)
	}
	if err != nil {
		return nil, fmt.Errorf("open network namespace %q: %w", path, err)
	}
	links, err := netlink.NewHandleAt(handle, unix.NETLINK_ROUTE)
	if err != nil {
		handle.Close()
		return nil, fmt.Errorf("open netlink in %q: %w", path, err)
	}
	return &namespace{path: path, handle: handle, links: links}, nil
}

// ensureNamespace makes the namespace when nothing is mounted at path, as "ip netns add" does.
func ensureNamespace(path string) (*namespace, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err == nil && fs.Type == unix.NSFS_MAGIC {
		return openNamespace(path)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make namespace directory: %w", err)
	}
	mark, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return nil, fmt.Errorf("make namespace %s: %w", path, err)
	}
	mark.Close()
	err = onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		self := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
		return unix.Mount(self, path, "", unix.MS_BIND, "")
	})
	if err != nil {
		return nil, fmt.Errorf("make network namespace %s: %w", path, err)
	}
	return openNamespace(path)
}

// removeNamespace takes the name away; the namespace ends with its last user.
func removeNamespace(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount network namespace %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove network namespace: %w", err)
	}
	return nil
}

func (n *namespace) close() {
	n.links.Close()
	n.handle.Close()
}

// do runs f on a thread inside the namespace. Sockets that f makes stay in it for good.
func (n *namespace) do(f func() error) error {
	return onOwnThread(func() error {
		if err := netns.Set(n.handle); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", n.path, err)
		}
		return f()
	})
}

// onOwnThread runs f on a thread that ends with it: whatever f does to the thread is never seen by other goroutines.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is discarded
		done <- f()
	}()
	return <-done
}

// setSysctls writes kernel settings of the namespace, each a path below /proc/sys/net.
func (n *namespace) setSysctls(values map[string]string) error {
	return n.do(func() error {
		for name, value := range values {
			err := os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0o644)
			if err != nil && !errors.Is(err, os.ErrNotExist) { // a kernel without IPv6 has nothing to switch off
				return fmt.Errorf("set %s in %s: %w", name, n.path, err)
			}
		}
		return nil
	})
}
