//! An allowed peer that attacks with HTTP/2 frames costs the sidecar less than a hundred times what it sends, and its
//! neighbours nothing but time.
#![allow(unreachable_pub, reason = "a test program has no public items, only shared ones")]

mod floods;
mod resets;
mod scene;
