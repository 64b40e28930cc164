//! The few calls to the system that the standard library lacks.

use std::{io, os::unix::process::CommandExt as _, process::Command};

/// Has the kernel send the child this signal when the thread that starts it ends, however it ends.
pub(crate) fn die_with_parent(command: &mut Command, signal: i32) {
    let parent = std::process::id();
    #[expect(unsafe_code, reason = "prctl(2) must run between fork and exec")]
    // SAFETY: only async-signal-safe calls, and nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have gone before the call above.
            if libc::getppid() as u32 != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        });
    }
}

/// Sends a signal to a process.
pub(crate) fn kill(pid: u32, signal: i32) {
    send(pid as libc::pid_t, signal);
}

/// Sends a signal to a process group.
pub(crate) fn kill_group(leader: u32, signal: i32) {
    send(-(leader as libc::pid_t), signal);
}

fn send(target: libc::pid_t, signal: i32) {
    if target == 0 || target == -1 || target == 1 {
        return;
    }
    #[expect(unsafe_code, reason = "the standard library sends only SIGKILL, and only to children")]
    // SAFETY: no memory is touched. A target that is gone is not an error here.
    unsafe {
        libc::kill(target, signal);
    }
}

/// Whether this program runs as root.
pub(crate) fn is_root() -> bool {
    #[expect(unsafe_code, reason = "the standard library does not tell the user id")]
    // SAFETY: it cannot fail and touches no memory.
    let uid = unsafe { libc::geteuid() };
    uid == 0
}

/// Allows this program and its children as many open files as root, or the hard limit, permits.
pub(crate) fn raise_file_limit() {
    const WANTED: libc::rlim_t = 65_536;
    #[expect(unsafe_code, reason = "the standard library does not know resource limits")]
    // SAFETY: the pointers are to a local structure that outlives the calls.
    unsafe {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) != 0 {
            return;
        }
        if limit.rlim_max < WANTED && is_root() {
            limit.rlim_max = WANTED;
        }
        limit.rlim_cur = limit.rlim_max.min(WANTED).max(limit.rlim_cur);
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
    }
}
