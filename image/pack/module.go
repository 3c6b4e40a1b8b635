package pack

import (
	"bytes"
	"debug/elf"
	"os"
	"strings"
	"time"
)

// moduleDepends returns the modules that a kernel module names in the depends= line of its .modinfo section.
func moduleDepends(data []byte) []string {
	file, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil
	}
	section := file.Section(".modinfo")
	if section == nil {
		return nil
	}
	info, err := section.Data()
	if err != nil {
		return nil
	}
	for _, line := range strings.Split(string(info), "\x00") {
		if names, ok := strings.CutPrefix(line, "depends="); ok && names != "" {
			return strings.Split(names, ",")
		}
	}
	return nil
}

// modTime is zero for what is not there.
func modTime(path string) time.Time {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}
