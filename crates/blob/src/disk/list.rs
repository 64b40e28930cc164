//! Listings in the order object stores give them: by whole keys, octet by octet.

use std::{io, path::Path};

use crate::{BlobKey, LIST_PAGE, Listed, ObjectPage};

/// A page of the objects under `root`.
pub(super) fn list(root: &Path, prefix: &str, after: Option<&BlobKey>) -> io::Result<ObjectPage> {
    let mut walk = Walk { prefix, after: after.map_or("", BlobKey::as_str), page: ObjectPage::default() };
    walk.directory(root, "")?;
    Ok(walk.page)
}

struct Walk<'a> {
    prefix: &'a str,
    after: &'a str,
    page: ObjectPage,
}

impl Walk<'_> {
    /// Lists one directory, whose keys start with `at`. Memory is one directory's names per level.
    fn directory(&mut self, path: &Path, at: &str) -> io::Result<()> {
        let mut names = Vec::new();
        let entries = match std::fs::read_dir(path) {
            Ok(entries) => entries,
            // Removed by somebody while we walked.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.starts_with('.') {
                continue;
            }
            // A directory sorts as its keys do, by its name with the slash: `a-b/x` comes before `a/x`.
            names.push(if entry.file_type()?.is_dir() {
                format!("{at}{name}/")
            } else {
                format!("{at}{name}")
            });
        }
        names.sort_unstable();
        for name in names {
            if self.page.more {
                break;
            }
            self.visit(path, at, &name)?;
        }
        Ok(())
    }

    fn visit(&mut self, parent: &Path, at: &str, name: &str) -> io::Result<()> {
        let last = &name[at.len()..];
        if let Some(directory) = last.strip_suffix('/') {
            let may_match = name.starts_with(self.prefix) || self.prefix.starts_with(name);
            let may_follow = name > self.after || self.after.starts_with(name);
            if may_match && may_follow {
                self.directory(&parent.join(directory), name)?;
            }
            return Ok(());
        }
        let Ok(key) = BlobKey::try_from(name) else { return Ok(()) };
        if !name.starts_with(self.prefix) || name <= self.after {
            return Ok(());
        }
        if self.page.objects.len() == LIST_PAGE {
            self.page.more = true;
            return Ok(());
        }
        match std::fs::metadata(parent.join(last)) {
            Ok(metadata) => self.page.objects.push(Listed { key, octets: metadata.len() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
