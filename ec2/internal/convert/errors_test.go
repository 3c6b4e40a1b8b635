package convert

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nimbrel/nimbrel/account"
	"github.com/nimbrel/nimbrel/compute"
	"github.com/nimbrel/nimbrel/ec2/errs"
	"github.com/nimbrel/nimbrel/image"
	"github.com/nimbrel/nimbrel/internal/ids"
	"github.com/nimbrel/nimbrel/store"
	"github.com/nimbrel/nimbrel/svc/idem"
	"github.com/nimbrel/nimbrel/vpc"
)

const someID = "0123456789abcdef0"

// samples has each error that a part declares, with the code that it must have.
var samples = []struct {
	name string // package and type or variable
	err  error
	code string
}{
	{"account.ErrBehind", account.ErrBehind, errs.ServiceUnavailable},
	{"account.NotFoundError", &account.NotFoundError{Kind: account.KindKeyPair, ID: "k"}, errs.InvalidKeyPairNotFound},
	{"account.NotFoundError", &account.NotFoundError{Kind: account.KindAccessKey, ID: "AKIA"}, errs.AuthFailure},
	{"account.NotFoundError", &account.NotFoundError{Kind: account.KindAccount, ID: "1"}, errs.AuthFailure},
	{"account.NotFoundError", &account.NotFoundError{Kind: account.KindResource, ID: "vpc-" + someID}, errs.InvalidVpcIDNotFound},
	{"account.NotFoundError", &account.NotFoundError{Kind: account.KindResource, ID: "i-" + someID}, errs.InvalidInstanceIDNotFound},
	{"account.NotFoundError", &account.NotFoundError{Kind: account.KindResource, ID: "x"}, errs.InvalidID},
	{"account.DuplicateError", &account.DuplicateError{Kind: account.KindKeyPair, Name: "k"}, errs.InvalidKeyPairDuplicate},
	{"account.InvalidError", &account.InvalidError{Param: "KeyName", Reason: "it is empty"}, errs.InvalidParameterValue},
	{"account.InvalidError", &account.InvalidError{Param: "PublicKeyMaterial"}, errs.InvalidKeyFormat},
	{"account.QuotaError", &account.QuotaError{Quota: account.QuotaVCPUs}, errs.VcpuLimitExceeded},
	{"account.QuotaError", &account.QuotaError{Quota: account.QuotaInstances}, errs.InstanceLimitExceeded},
	{"account.QuotaError", &account.QuotaError{Quota: account.QuotaVolumes}, errs.VolumeLimitExceeded},
	{"account.QuotaError", &account.QuotaError{Quota: account.QuotaVPCs}, errs.VpcLimitExceeded},
	{"account.QuotaError", &account.QuotaError{Quota: account.QuotaSecurityGroups}, errs.SecurityGroupLimitExceeded},
	{"account.QuotaError", &account.QuotaError{Quota: account.QuotaInterfaces}, errs.NetworkInterfaceLimitExceeded},
	{"account.QuotaError", &account.QuotaError{Quota: account.QuotaKeyPairs}, errs.KeyPairLimitExceeded},
	{"account.LimitError", &account.LimitError{Kind: account.KindAccessKey, Limit: 2}, errs.ResourceLimitExceeded},
	{"account.TagLimitError", &account.TagLimitError{Resource: "i-" + someID}, errs.TagLimitExceeded},

	{"vpc.ErrBehind", vpc.ErrBehind, errs.ServiceUnavailable},
	{"vpc.ErrStale", vpc.ErrStale, errs.ServiceUnavailable},
	{"vpc.ErrNoDefaultVPC", vpc.ErrNoDefaultVPC, errs.VPCIdNotSpecified},
	{"vpc.ErrDefaultGroup", vpc.ErrDefaultGroup, errs.CannotDelete},
	{"vpc.ErrVNIsExhausted", vpc.ErrVNIsExhausted, errs.InsufficientCapacity},
	{"vpc.NotFoundError", &vpc.NotFoundError{Kind: vpc.KindVPC, ID: "vpc-" + someID}, errs.InvalidVpcIDNotFound},
	{"vpc.NotFoundError", &vpc.NotFoundError{Kind: vpc.KindSubnet, ID: "subnet-" + someID}, errs.InvalidSubnetIDNotFound},
	{"vpc.NotFoundError", &vpc.NotFoundError{Kind: vpc.KindGroup, ID: "sg-" + someID}, errs.InvalidGroupNotFound},
	{"vpc.NotFoundError", &vpc.NotFoundError{Kind: vpc.KindRule, ID: "sgr-" + someID}, errs.InvalidSecurityGroupRuleIdNotFound},
	{"vpc.NotFoundError", &vpc.NotFoundError{Kind: vpc.KindInterface, ID: "eni-" + someID}, errs.InvalidNetworkInterfaceIDNotFound},
	{"vpc.NotFoundError", &vpc.NotFoundError{Kind: vpc.KindRouteTable, ID: "rtb-" + someID}, errs.InvalidRouteTableIDNotFound},
	{"vpc.NotFoundError", &vpc.NotFoundError{Kind: vpc.KindNetworkACL, ID: "acl-" + someID}, errs.InvalidNetworkAclIDNotFound},
	{"vpc.NotFoundError", &vpc.NotFoundError{Kind: vpc.KindDHCPOptions, ID: "dopt-" + someID}, errs.InvalidDhcpOptionsIDNotFound},
	{"vpc.NotFoundError", &vpc.NotFoundError{Kind: vpc.KindGroupName, ID: "web"}, errs.InvalidGroupNotFound},
	{"vpc.NotFoundError", &vpc.NotFoundError{Kind: vpc.KindDefaultVPC}, errs.VPCIdNotSpecified},
	{"vpc.NotFoundError", &vpc.NotFoundError{Kind: vpc.KindDefaultSubnet, ID: "us-nimbrel-1a"}, errs.MissingInput},
	{"vpc.RangeError", &vpc.RangeError{Kind: vpc.KindVPC, CIDR: netip.MustParsePrefix("10.0.0.0/8")}, errs.InvalidVpcRange},
	{"vpc.RangeError", &vpc.RangeError{Kind: vpc.KindSubnet, CIDR: netip.MustParsePrefix("10.0.0.0/8")}, errs.InvalidSubnetRange},
	{"vpc.ConflictError", &vpc.ConflictError{}, errs.InvalidSubnetConflict},
	{"vpc.DependencyError", &vpc.DependencyError{Kind: vpc.KindVPC, ID: "vpc-" + someID}, errs.DependencyViolation},
	{"vpc.GroupDuplicateError", &vpc.GroupDuplicateError{}, errs.InvalidGroupDuplicate},
	{"vpc.PermissionError", &vpc.PermissionError{Problem: vpc.ProblemMalformed}, errs.InvalidPermissionMalformed},
	{"vpc.PermissionError", &vpc.PermissionError{Problem: vpc.ProblemDuplicate}, errs.InvalidPermissionDuplicate},
	{"vpc.PermissionError", &vpc.PermissionError{Problem: vpc.ProblemNotFound}, errs.InvalidPermissionNotFound},
	{"vpc.PermissionError", &vpc.PermissionError{Problem: vpc.ProblemRepeated}, errs.InvalidParameterValue},
	{"vpc.LimitError", &vpc.LimitError{Limit: vpc.LimitSubnetsPerVPC}, errs.SubnetLimitExceeded},
	{"vpc.LimitError", &vpc.LimitError{Limit: vpc.LimitRulesPerGroup}, errs.RulesPerSecurityGroupLimitExceeded},
	{"vpc.LimitError", &vpc.LimitError{Limit: vpc.LimitGroupsPerInterface}, errs.SecurityGroupsPerInterfaceLimitExceeded},
	{"vpc.LimitError", &vpc.LimitError{Limit: vpc.LimitIdentitiesPerVPC}, errs.ResourceLimitExceeded},
	{"vpc.LimitError", &vpc.LimitError{Limit: vpc.LimitRulesPerCall}, errs.RulesPerSecurityGroupLimitExceeded},
	{"vpc.NoAddressError", &vpc.NoAddressError{}, errs.InsufficientFreeAddressesInSubnet},
	{"vpc.AddressInUseError", &vpc.AddressInUseError{}, errs.InvalidIPAddressInUse},
	{"vpc.AddressError", &vpc.AddressError{}, errs.InvalidParameterValue},
	{"vpc.InvalidError", &vpc.InvalidError{Param: "GroupName"}, errs.InvalidParameterValue},

	{"compute.ErrBehind", compute.ErrBehind, errs.ServiceUnavailable},
	{"compute.ErrHostUnreachable", compute.ErrHostUnreachable, errs.ServiceUnavailable},
	{"compute.ErrHostHeard", compute.ErrHostHeard, errs.IncorrectState},
	{"compute.NotFoundError", &compute.NotFoundError{Kind: "instance", IDs: []string{"i-" + someID}}, errs.InvalidInstanceIDNotFound},
	{"compute.NotFoundError", &compute.NotFoundError{Kind: "volume", IDs: []string{"vol-" + someID}}, errs.InvalidVolumeNotFound},
	{"compute.NotFoundError", &compute.NotFoundError{Kind: "host", IDs: []string{"h-" + someID}}, errs.InvalidHostIDNotFound},
	{"compute.StateError", &compute.StateError{}, errs.IncorrectInstanceState},
	{"compute.ProtectedError", &compute.ProtectedError{}, errs.OperationNotPermitted},
	{"compute.CapacityError", &compute.CapacityError{}, errs.InsufficientInstanceCapacity},
	{"compute.RequestError", &compute.RequestError{Parameter: "InstanceType"}, errs.InvalidParameterValue},
	{"compute.RequestError", &compute.RequestError{Parameter: "BlockDeviceMapping.Ebs.VolumeSize", Reason: "too small"}, errs.InvalidBlockDeviceMapping},

	{"image.ErrBehind", image.ErrBehind, errs.ServiceUnavailable},
	{"image.ErrNoContent", image.ErrNoContent, errs.InternalError},
	{"image.ErrNoUpload", image.ErrNoUpload, errs.InternalError},
	{"image.NotFoundError", &image.NotFoundError{IDs: []ids.Image{"ami-" + someID}}, errs.InvalidAMIIDNotFound},
	{"image.InvalidError", &image.InvalidError{Field: "name", Reason: "x"}, errs.InvalidAMINameMalformed},
	{"image.OwnerError", &image.OwnerError{ID: "ami-" + someID}, errs.AuthFailure},
	{"image.DuplicateError", &image.DuplicateError{Name: "n", With: "ami-" + someID}, errs.InvalidAMINameDuplicate},
	{"image.SnapshotError", &image.SnapshotError{ID: "snap-" + someID}, errs.InvalidSnapshotNotFound},
	{"image.LimitError", &image.LimitError{What: "images", Max: 1}, errs.ResourceLimitExceeded},
	{"image.InvalidError", &image.InvalidError{Field: "Name"}, errs.InvalidParameterValue},

	{"idem.ErrClaimed", idem.ErrClaimed, errs.ServiceUnavailable},
	{"idem.TokenError", &idem.TokenError{}, errs.InvalidParameterValue},
	{"idem.MismatchError", &idem.MismatchError{}, errs.IdempotentParameterMismatch},
}

// TestEveryDeclaredErrorIsMapped reads the parts' sources for what they can return.
func TestEveryDeclaredErrorIsMapped(t *testing.T) {
	sampled := make(map[string]bool)
	for _, s := range samples {
		sampled[s.name] = true
	}
	declared := make(map[string]bool)
	for name, dir := range map[string]string{"account": "account", "vpc": "vpc", "compute": "compute", "image": "image", "idem": "svc/idem"} {
		for _, e := range declaredErrors(t, filepath.Join("../../..", dir)) {
			declared[name+"."+e] = true
			if !sampled[name+"."+e] {
				t.Errorf("%s.%s has no mapping here: add it to mappings and to samples", name, e)
			}
		}
	}
	for name := range sampled {
		if !declared[name] {
			t.Errorf("%s is not declared by its part any more", name)
		}
	}
	if len(declared) < 30 {
		t.Errorf("only %d errors were found", len(declared))
	}
}

// declaredErrors lists the exported error types and Err variables of a package.
func declaredErrors(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no sources in %s: %v", dir, err)
	}
	var found []string
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, source, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Name.Name == "Error" && n.Recv != nil {
					found = append(found, receiver(n.Recv.List[0].Type))
				}
				return false
			case *ast.ValueSpec:
				for _, name := range n.Names {
					if strings.HasPrefix(name.Name, "Err") {
						found = append(found, name.Name)
					}
				}
			}
			return true
		})
	}
	return found
}

func receiver(e ast.Expr) string {
	if star, ok := e.(*ast.StarExpr); ok {
		e = star.X
	}
	return e.(*ast.Ident).Name
}

func TestError(t *testing.T) {
	for _, s := range samples {
		for _, err := range []error{s.err, fmt.Errorf("do something: %w", s.err)} {
			e, ok := Error(err).(*errs.Error)
			if !ok || e.Code != s.code {
				t.Errorf("%T %v became %v, want %s", s.err, s.err, Error(err), s.code)
			}
		}
	}
	// Exactly one mapping answers for each.
	for _, s := range samples {
		answers := 0
		for _, m := range mappings {
			if m(s.err) != nil {
				answers++
			}
		}
		if answers != 1 {
			t.Errorf("%s %v has %d mappings", s.name, s.err, answers)
		}
	}
	unknown := errors.New("disk on fire")
	if got := Error(unknown); got != unknown {
		t.Errorf("an undeclared error became %v", got)
	}
	if e, ok := Error(fmt.Errorf("x: %w", errs.DryRun)).(*errs.Error); !ok || e.Code != errs.DryRunOperation {
		t.Error("an EC2 error must pass")
	}
	for err, mapped := range map[error]bool{
		&store.RefusedError{Reason: store.ReasonOverloaded, Retry: store.RetryLater}: true,
		&store.RefusedError{Reason: store.ReasonInvalid, Retry: store.RetryNever}:    false,
		&store.ConflictError{}: true,
		store.ErrUnknown:       false,
	} {
		if e := (*errs.Error)(nil); errors.As(Error(err), &e) != mapped || (mapped && e.Status != 503) {
			t.Errorf("%v became %v", err, Error(err))
		}
	}
	if e, ok := Error(context.DeadlineExceeded).(*errs.Error); !ok || e.Status != 503 {
		t.Error("a deadline must be answered as unavailable")
	}
}

// TestResource holds that every id that can carry tags is told from one that cannot.
func TestResource(t *testing.T) {
	for text, code := range map[string]string{
		"i-" + someID: "", "vol-" + someID: "", "sgr-" + someID: "", "sg-" + someID: "", "ami-12345678": "",
		"i-x": errs.InvalidInstanceIDMalformed, "vpc-": errs.InvalidVpcIDMalformed, "x": errs.InvalidID, "": errs.InvalidID, "h-" + someID: errs.InvalidID,
	} {
		err := Resource(text).Check()
		if e := (*errs.Error)(nil); (err == nil) != (code == "") || (errors.As(err, &e) && e.Code != code) {
			t.Errorf("%q: %v, want %s", text, err, code)
		}
	}
}
