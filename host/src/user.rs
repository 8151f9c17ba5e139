//! The user's own folders: one name for all of them.

use directories::ProjectDirs;

/// What the folders are called, below wherever the system keeps such folders. `host` alone would be anyone's.
pub const NAME: &str = "diffusion-host";

/// The user's data, cache and other folders; none where the system knows no home.
pub fn folders() -> Option<ProjectDirs> {
    ProjectDirs::from("", "", NAME)
}
