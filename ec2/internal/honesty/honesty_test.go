package honesty

import (
	"net/url"
	"strings"
	"testing"

	"github.com/nimbrel/nimbrel/ec2/ec2gen"
	"github.com/nimbrel/nimbrel/ec2/errs"
)

// TestEveryParameterIsListedOnce walks the generated parameter lists of the served actions.
func TestEveryParameterIsListedOnce(t *testing.T) {
	if len(Actions()) < 40 {
		t.Fatalf("%d actions are served", len(Actions()))
	}
	for _, action := range Actions() {
		modelled, known := ec2gen.Actions[action]
		if !known {
			t.Errorf("[%s] is not a generated action", action)
		}
		for _, parameter := range modelled.Parameters {
			var covering []string
			for _, section := range []string{action, everyAction} {
				for _, rule := range table[section] {
					if rule.covers(parameter) {
						covering = append(covering, rule.Name)
					}
				}
			}
			if len(covering) != 1 {
				t.Errorf("[%s] %s is listed by %q, want one line", action, parameter, covering)
			}
		}
		for _, rule := range table[action] {
			if !anyCovered(rule, modelled.Parameters) {
				t.Errorf("[%s] %s is no parameter of the action", action, rule.Name)
			}
		}
	}
}

func anyCovered(rule Rule, parameters []string) bool {
	for _, parameter := range parameters {
		if rule.covers(parameter) {
			return true
		}
	}
	return false
}

// TestEveryRefusedParameterIsRefused sets each one in a request.
func TestEveryRefusedParameterIsRefused(t *testing.T) {
	refused := 0
	for _, action := range Actions() {
		for _, parameter := range ec2gen.Actions[action].Parameters {
			rule, _ := Find(action, parameter)
			name := strings.TrimSuffix(strings.ReplaceAll(parameter+".", ".N.", ".1."), ".")
			err := Check(action, url.Values{name: {"no-such-value"}})
			if rule.Class == Refused || len(rule.Values) > 0 {
				refused++
				e, ok := err.(*errs.Error)
				if !ok || e.Code != errs.UnsupportedOperation || !strings.Contains(e.Message, name) {
					t.Errorf("%s with %s: %v", action, name, err)
				}
			} else if err != nil {
				t.Errorf("%s with %s: %v", action, name, err)
			}
			for _, value := range rule.Values {
				if err := Check(action, url.Values{name: {value}}); err != nil {
					t.Errorf("%s with %s=%s: %v", action, name, value, err)
				}
			}
		}
	}
	if refused < 50 {
		t.Errorf("%d refused parameters", refused)
	}
}

func TestCheck(t *testing.T) {
	if err := Check("CopyImage", nil); err == nil {
		t.Error("an action without a section passed")
	}
	err := Check("RunInstances", url.Values{"KernelId": {"aki"}, "AdditionalInfo": {"x"}, "ImageId": {"ami-1"}, "Nonsense.12.x": {"1"}})
	if err == nil || !strings.Contains(err.Error(), "AdditionalInfo") {
		t.Errorf("want the first by name, got %v", err)
	}
	err = Check("RunInstances", url.Values{"NetworkInterface.12.AssociatePublicIpAddress": {"true"}})
	if err == nil || !strings.Contains(err.Error(), "NetworkInterface.12.AssociatePublicIpAddress") || !strings.Contains(err.Error(), "false") {
		t.Errorf("got %v", err)
	}
}

func TestParseRefusesNonsense(t *testing.T) {
	for _, text := range []string{
		"[A]\nhonored X", "[A]\nhonoured", "[A]\nrefused X", "[A]\nhonoured X : why", "[A]\nrefused X = 1 : why", "[A]\n[A]",
	} {
		if _, err := parse(text); err == nil {
			t.Errorf("%q was read", text)
		}
	}
}

// FuzzModelled holds that only list indexes change.
func FuzzModelled(f *testing.F) {
	f.Add("Filter.1.Value.22")
	f.Add("1.2..3x.4")
	f.Fuzz(func(t *testing.T, name string) {
		got := modelled(name)
		if strings.Count(got, ".") != strings.Count(name, ".") || modelled(got) != got {
			t.Errorf("%q became %q", name, got)
		}
	})
}
