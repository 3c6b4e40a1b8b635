package computerows

import "testing"

// TestItemNamesTheFirmware holds that the image's boot mode, kept in the row, reaches the host.
func TestItemNamesTheFirmware(t *testing.T) {
	for _, uefi := range []bool{false, true} {
		if got := (&Instance{UEFI: uefi}).Item().UEFI; got != uefi {
			t.Errorf("UEFI %v is told as %v", uefi, got)
		}
	}
}
