package compute

import (
	"fmt"
	"time"

	"github.com/nimbrel/nimbrel/internal/ids"
)

// Property is what a Page can be narrowed by without looking at every instance.
type Property string

// The properties with an index. The names are those of DescribeInstances' filters; a tag's is ByTag(key).
const (
	ByID      Property = "instance-id"
	ByState   Property = "instance-state-name"
	ByVPC     Property = "vpc-id"
	BySubnet  Property = "subnet-id"
	ByImage   Property = "image-id"
	ByAddress Property = "private-ip-address"
)

// ByTag is the property of a tag's value.
func ByTag(key string) Property { return Property("tag:" + key) }

// Condition holds for instances whose property has one of the values, exactly. One of ByAddress also lets through
// instances that have just lost the address.
type Condition struct {
	Property Property
	Values   []string
}

// Page says which part of an account's instances a read wants.
type Page struct {
	After string      // a Place: only instances behind it; empty: from the first
	Limit int         // at most so many, ≥ 1
	Where []Condition // all of them hold
}

// Place is where an instance stands among its account's: as launched, those of one reservation together. It never
// changes and no two instances share one; texts compare as places do.
func (i *Instance) Place() string { return PlaceOf(i.CreateTime, i.Reservation, i.LaunchIndex) }

// PlaceOf is the Place of an instance by what it was launched with.
func PlaceOf(created time.Time, r ids.Reservation, index int) string {
	return fmt.Sprintf("%020d %s %05d", created.UnixNano(), r, index)
}
