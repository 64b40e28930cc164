//! What is wrong with a configuration, and where.

/// A configuration that cannot be used. It always names the key's path.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}")]
pub(crate) struct ConfigError {
    path: String,
    problem: String,
}

impl ConfigError {
    /// A problem at `path`, for example `pop3.listen`.
    pub(crate) fn new(path: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        Self { path: path.into(), problem: problem.to_string() }
    }
}
