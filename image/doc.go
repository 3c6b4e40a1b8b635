// Package image is the contract of the part that owns machine images: which are registered, for whom, and what their
// content is.
//
// An image is immutable content named by its SHA-256: a raw disk that hosts fetch by digest and never parse as a
// container format. The catalog row says who owns it and who may launch it.
//
// Invariant: an available image's digest and size never change; a launch checks at commit that the image still exists.
//
// New content comes from operators (RegisterLocal). Accounts register further images of content that they may launch, which
// they name by an image's root snapshot or location, and share them: an image is private until its owner permits others.
//
// Deliberately absent so far: chunked content, import of other formats, snapshots of their own.
//
// Start reading at Service.
package image
