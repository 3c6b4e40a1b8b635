// Package chunk keeps images as chunks named by their SHA-256, so that two images that are mostly the same are stored
// mostly once.
//
// A Manifest lists an image's chunks; it is named by the SHA-256 of the whole disk, which is what hosts ask for. A Store is
// a directory of both. Chunks of zeros are in no list and no directory.
//
// Invariants: a manifest has its name only when it and every chunk that it lists are durable. A chunk under its name is
// believed only for a manifest: one that a crash may have left torn is compared before it is used again. Nothing counts
// references on disk; they are recounted from the manifests, so that no crash can leave a count wrong.
//
// Deliberately absent: encryption, per-account salts, and peers. Whoever can read the directory can read every image.
//
// Start reading at Store.
package chunk
