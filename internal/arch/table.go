// Package arch holds the direction of imports between the parts as one table, and the test that enforces it.
//
// Three kinds of rule: what a folder may import of this module (may), what it never reaches however many steps away
// (never), and which packages are pure: free of clock, goroutine, socket and disk as far as imports can tell (pure).
// Each row says why, and the failing test prints that reason. Go's own `internal` and cycle rules do the rest.
//
// Deliberately absent: third-party packages other than the few named in confined, and calls (internal/tidy bans those).
package arch

// module is the path that every package of the product starts with.
const module = "github.com/nimbrel/nimbrel/"

// mayRow lists what a folder and its subfolders may import besides themselves, the internal/ leaves and the svc leaves.
// The row with the longest matching folder decides.
type mayRow struct {
	folder string
	may    []string // folders; "*" is everything, a trailing "!" is that package alone without its subfolders
	reason string
}

// leaves may be imported by anyone.
var leaves = []string{"internal/", "svc/shed", "svc/breaker", "svc/retry", "svc/deadline", "svc/ratelimit", "svc/hedge", "svc/obs", "svc/awsjson"}

var mayTable = []mayRow{
	{"internal", nil, "a leaf stands on nothing, so that anyone may stand on it"},
	{"rpc", nil, "frames and connections know no service"},
	{"store", nil, "the embedded store needs no transport, so that anyone can embed it"},
	{"store/client", []string{"rpc"}, "the remote form speaks rpc"},
	{"store/server", []string{"rpc"}, "the remote form speaks rpc"},
	{"check", []string{"store"}, "the checker reads rows and runs what the parts export"},
	{"svc", []string{"store", "check"}, "stateful services keep rows"},
	{"account", []string{"svc", "store", "check", "rpc"}, "accounts know no machine and no network"},
	{"dispatch", []string{"svc", "store", "check", "rpc"}, "the host link carries payloads it does not understand"},
	{"image", []string{"account", "svc", "store", "check", "rpc"}, "images belong to accounts and know no instance"},
	{"host", []string{"dispatch!", "dispatch/session", "dispatch/client", "dispatch/enroll", "image!", "image/chunk", "image/pack", "rpc"}, "a host is told what to do and knows nobody above the link"},
	{"vpc", []string{"account", "host!", "dispatch!", "dispatch/dispatchrows", "svc", "store", "check"}, "networks are told to hosts and know no instance's life"},
	{"compute", []string{"account", "vpc", "image", "host!", "dispatch", "svc", "store", "check"}, "instances stand on every other part"},
	{"ec2", []string{"account", "compute!", "vpc!", "image!", "svc", "apigen"}, "the public door speaks to contracts"},
	{"ec2/internal/convert", []string{"ec2/", "account", "compute!", "vpc!", "image!", "svc", "store!"}, "the one place that knows every error, the store's refusals included"},
	{"operator", []string{"account", "compute!", "vpc!", "image!", "host!", "dispatch!", "check", "svc", "store!", "store/tuple", "apigen"}, "the operators' door speaks to contracts"},
	{"apigen", nil, "the generator stands on the standard library"},
	{"cli", []string{"operator/operatorgen", "operator/stream", "operator/upload", "image/inspect"}, "a client knows the operators' APIs only, and refuses a file before it travels"},
	{"dev", []string{"operator/operatorgen"}, "the one-machine cloud starts processes and asks their APIs"},
	{"cmd", []string{"*"}, "the binary wires everything"},
	{"test", []string{"*"}, "tests stand outside every part"},
}

// neverRow forbids a dependency however indirect, in product code.
type neverRow struct {
	from, to, reason string
}

var neverTable = []neverRow{
	{"host", "store", "guests must not depend on the control plane's store"},
	{"dispatch/client", "store", "the host agent links it"},
	{"dispatch/session", "store", "both ends of the link share it"},
	{"cli", "compute", "a client must build without the control plane"},
	{"cli", "store", "a client must build without the control plane"},
}

// pureFolders import only the standard packages of pureAllowed, other pure folders and value leaves.
var pureFolders = map[string]string{
	"store/tuple":               "an encoding",
	"store/guard":               "evaluated by chooser and transactor alike",
	"store/internal/pool":       "names of rows",
	"store/internal/transactor": "the meaning of operations, replayed on a model",
	"store/internal/core":       "the commit pipeline, searched exhaustively",
	"compute/fit":               "the one answer to whether it fits",
	"dispatch/session":          "the host link's protocol, searched exhaustively",
	"host/internal/policy":      "the policy compiler, compared with a model",
	"host/internal/reconcile":   "decisions, tested as tables",
}

// pureAllowed is an allow-list, since a ban list forgets (a first one missed net/http).
var pureAllowed = map[string]bool{
	"bytes": true, "cmp": true, "crypto/sha256": true, "encoding/binary": true, "encoding/hex": true, "errors": true, "fmt": true,
	"hash/crc32": true, "hash/maphash": true, "iter": true, "maps": true, "math": true, "math/bits": true, "net/netip": true,
	"slices": true, "sort": true, "strconv": true, "strings": true, "time": true, "unicode/utf8": true, "reflect": true,
	"github.com/fxamacker/cbor/v2": true, "encoding": true, "sync": true,
}

// confined third-party packages may be imported below the listed folders only.
var confined = map[string][]string{
	"github.com/cockroachdb/pebble": {"store", "test"},
	"github.com/prometheus":         {"svc/obs", "cmd"},
	"github.com/BurntSushi/toml":    {"cmd"},
	"go.opentelemetry.io":           {"svc/obs"},
}
