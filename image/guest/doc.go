// Package guest names what the guest image promises to the outside.
package guest
