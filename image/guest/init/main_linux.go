// Command init is the guest image's only program of our own: process 1, the probe's client and sudo, told apart by the
// name it is called by.
//
// It is installed setuid root for sudo's sake; under every other name it gives that up before it does anything.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nimbrel/nimbrel/image/guest"
	"github.com/nimbrel/nimbrel/image/guest/internal/probe"
)

func main() {
	name := filepath.Base(os.Args[0])
	if os.Getpid() == 1 {
		run()
		return
	}
	if name == "sudo" {
		fail(sudo(os.Args[1:]))
	}
	if err := errors.Join(syscall.Setgid(os.Getgid()), syscall.Setuid(os.Getuid())); err != nil {
		fail(err)
	}
	if name != "probe" {
		fail(fmt.Errorf("%s works only as process 1; call it as probe or sudo", name))
	}
	os.Exit(askProbe(os.Args[1:]))
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, filepath.Base(os.Args[0])+":", err)
	os.Exit(1)
}

// sudo executes a command as root. Only root and the image's user may. Flags are accepted as far as scripts use them:
// there is no password to ask for and no other user to become.
func sudo(args []string) error {
	if uid := os.Getuid(); uid != 0 && uid != guest.UserID {
		return errors.New("only " + guest.User + " may become root")
	}
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		switch args[0] {
		case "-n", "-E", "-H", "-S", "--":
		case "-i", "-s":
			args = append(args, "/bin/sh")
		case "-u":
			if len(args) < 2 || args[1] != "root" {
				return errors.New("only -u root is possible")
			}
			args = args[1:]
		default:
			return fmt.Errorf("flag %s is not known; known are -n -E -H -S -i -s -u root", args[0])
		}
		args = args[1:]
	}
	if len(args) == 0 {
		return errors.New("usage: sudo COMMAND [ARGUMENT...]")
	}
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(0), syscall.Setuid(0)); err != nil {
		return fmt.Errorf("become root: %w", err)
	}
	if err := os.Setenv("PATH", path); err != nil {
		return err
	}
	program, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	env := append(os.Environ(), "HOME=/root", "USER=root", "LOGNAME=root")
	return unix.Exec(program, args, env)
}

// askProbe hands a command to process 1 and prints its answer. The exit status is 0 for ok, 1 for fail, 2 for a command
// that was not understood.
func askProbe(args []string) int {
	if len(args) == 0 {
		args = []string{"help"}
	}
	line := strings.Join(args, " ")
	if len(args) > 1 {
		words := make([]string, len(args))
		for i, arg := range args {
			words[i] = probe.Quote(arg)
		}
		line = strings.Join(words, " ")
	}
	conn, err := net.Dial("unix", guest.ProbeSocket)
	if err != nil {
		fail(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprintln(conn, line); err != nil {
		fail(err)
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		fail(fmt.Errorf("read answer: %w", err))
	}
	fmt.Print(answer)
	switch {
	case strings.HasPrefix(answer, "ok"):
		return 0
	case strings.Contains(answer, `"reason":"usage"`):
		return 2
	}
	return 1
}
