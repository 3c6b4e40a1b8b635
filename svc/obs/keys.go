package obs

// Keys of log records that code outside of one part reads or writes.
const (
	KeyAccount   = "account"
	KeyHost      = "host"
	KeyInstance  = "instance"
	KeyOperation = "op"
	KeyRequest   = "request"
	KeyError     = "err"
)

// keys are all keys of log records and what their values are. A key means the same in every part, and a quantity's key
// ends in its unit. Who adds one looks for one that says it already.
var keys = map[string]string{
	"accelerator": "how guests run: kvm, tcg or fake",
	"account":     "account id",
	"action":      "name of an API's action",
	"attempt":     "how many tries there were, this one included",
	"bytes":       "size of the whole",
	"claimed":     "what a peer says of itself and is not believed",
	"code":        "error or state code",
	"config":      "effective settings of a daemon",
	"degraded":    "what a host cannot do",
	"diskGib":     "disk space",
	"doneBytes":   "how much of bytes is done",
	"epoch":       "epoch of a target's documents",
	"err":         "cause",
	"generation":  "start of an instance that is spoken of",
	"host":        "host id",
	"image":       "image id or digest",
	"instance":    "instance id",
	"interface":   "interface id",
	"key":         "row key, quoted",
	"kind":        "kind of the subject",
	"memoryMib":   "memory",
	"op":          "operation id",
	"outcome":     "how an audited action ended",
	"path":        "file or directory",
	"peer":        "address of the other end",
	"port":        "TCP or UDP port",
	"reach":       "whether a guest is heard",
	"reason":      "why, for a person",
	"request":     "request id, as the client was told",
	"reservation": "reservation id",
	"retryMs":     "pause before the next try",
	"section":     "section of a document",
	"seq":         "sequence number of a section",
	"service":     "name of a service",
	"state":       "state of a guest or instance",
	"step":        "step of a reconciler",
	"stream":      "name of a stream",
	"subject":     "what an audited action was about",
	"target":      "target of the host link",
	"tookMs":      "how long it took",
	"vcpus":       "processors",
	"ver":         "version of the store",
	"version":     "version of the program",
}

// IsKey says whether log records may have the key.
func IsKey(key string) bool { return keys[key] != "" }
