package image

import "testing"

func TestUEFI(t *testing.T) {
	for mode, want := range map[string]bool{"": false, "legacy-bios": false, "uefi": true, "uefi-preferred": true} {
		if got := (&Image{BootMode: mode}).UEFI(); got != want {
			t.Errorf("%q boots by UEFI: %v", mode, got)
		}
	}
}
