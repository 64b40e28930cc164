//! What the SDK's errors mean to the caller. The only place that knows S3's error codes.

use std::error::Error;

use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{DisplayErrorContext, ProvideErrorMetadata, SdkError},
};
use maildrop::port::BlobError;

/// Longest text of an error kept for the log: servers answer whole pages.
const TEXT_CHARS_MAX: usize = 300;

/// The error of a request for `what`.
pub(super) fn s3_error<E>(what: &str, error: &SdkError<E, HttpResponse>) -> BlobError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ServiceError(service) => {
            let status = service.raw().status().as_u16();
            let code = service.err().code().unwrap_or_default();
            let message = service.err().message().unwrap_or_default();
            if code == "NoSuchKey" || (status == 404 && matches!(code, "" | "NotFound")) {
                return BlobError::NotFound(what.to_owned());
            }
            by_code(code, Some(status), clip(&format!("{what}: {status} {code} {message}")))
        }
        // A request that cannot even be built or signed.
        SdkError::ConstructionFailure(_) => BlobError::Misconfigured(describe(what, error)),
        SdkError::TimeoutError(_)
        | SdkError::DispatchFailure(_)
        | SdkError::ResponseError(_)
        // The enum is open; whatever else there will be, the server did not refuse.
        | _ => BlobError::Unavailable(describe(what, error)),
    }
}

/// The error for a code, by itself where it says enough, otherwise by the status it came with.
pub(super) fn by_code(code: &str, status: Option<u16>, text: String) -> BlobError {
    match code {
        "SlowDown" | "SlowDownWrite" | "SlowDownRead" | "RequestTimeout" | "InternalError"
        | "ServiceUnavailable" | "OperationAborted" | "NoSuchUpload"
        // What came there is not what was sent: the next try may be better.
        | "BadDigest"
        | "InvalidDigest"
        | "XAmzContentSHA256Mismatch"
        | "XAmzContentChecksumMismatch"
        | "IncompleteBody" => BlobError::Unavailable(text),
        "NoSuchBucket" | "AccessDenied" => BlobError::Misconfigured(text),
        // Ceph answers 403, MinIO 400 and 507.
        code if code.contains("QuotaExceeded") || code.contains("StorageFull") => BlobError::Full(text),
        _ => match status {
            Some(507) => BlobError::Full(text),
            Some(408 | 409 | 429 | 500..) | None => BlobError::Unavailable(text),
            // 301: another region's bucket; 400: what we said makes no sense to it; 403: no right.
            Some(_) => BlobError::Misconfigured(text),
        },
    }
}

/// Whether a ranged GET failed because the range starts past the object's end.
pub(super) fn is_past_end<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    match error {
        SdkError::ServiceError(service) => {
            service.raw().status().as_u16() == 416 || service.err().code() == Some("InvalidRange")
        }
        _ => false,
    }
}

fn describe<E>(what: &str, error: &SdkError<E, HttpResponse>) -> String
where
    E: Error + 'static,
{
    clip(&format!("{what}: {}", DisplayErrorContext(error)))
}

fn clip(text: &str) -> String {
    text.chars().take(TEXT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(code: &str, status: u16, expected: fn(String) -> BlobError) {
        let found = by_code(code, Some(status), String::new());
        assert_eq!(
            std::mem::discriminant(&found),
            std::mem::discriminant(&expected(String::new())),
            "{code} {status}: {found:?}"
        );
    }

    #[test]
    fn codes_mean_what_the_caller_does_next() {
        check("SlowDown", 503, BlobError::Unavailable);
        check("InternalError", 500, BlobError::Unavailable);
        check("", 502, BlobError::Unavailable);
        check("BadDigest", 400, BlobError::Unavailable);
        check("RequestTimeout", 400, BlobError::Unavailable);
        check("NoSuchBucket", 404, BlobError::Misconfigured);
        check("AccessDenied", 403, BlobError::Misconfigured);
        check("SignatureDoesNotMatch", 403, BlobError::Misconfigured);
        check("InvalidAccessKeyId", 403, BlobError::Misconfigured);
        check("PermanentRedirect", 301, BlobError::Misconfigured);
        check("QuotaExceeded", 403, BlobError::Full);
        check("XMinioStorageFull", 507, BlobError::Full);
    }
}
