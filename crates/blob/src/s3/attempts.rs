//! What the SDK does within a request: each attempt is counted, and a refusal for load lowers the limits.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use aws_sdk_s3::config::{
    ConfigBag, Intercept, RuntimeComponents,
    interceptors::{BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef},
};
use aws_sdk_s3::error::ConnectorError;
use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::orchestrator::{Metadata, OrchestratorError},
};
use aws_smithy_types::config_bag::{Storable, StoreReplace};

use crate::weather::{Limit, Watch};

/// Looks at the attempts of a client.
#[derive(Debug)]
pub(super) struct Attempts {
    pub(super) watch: Arc<dyn Watch>,
    pub(super) limits: [Arc<Limit>; 2],
}

/// An attempt, counted in any case: a request that is dropped has been sent, and is paid for.
#[derive(Debug)]
struct UnderWay {
    watch: Arc<dyn Watch>,
    kind: &'static str,
    ended: AtomicBool,
}

impl Storable for UnderWay {
    type Storer = StoreReplace<Self>;
}

impl UnderWay {
    fn end(&self, result: &'static str) {
        if !self.ended.swap(true, Relaxed) {
            self.watch.attempt(self.kind, result);
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.end("cancelled");
    }
}

impl Intercept for Attempts {
    fn name(&self) -> &'static str {
        "Attempts"
    }

    fn read_before_attempt(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let kind = bag.load::<Metadata>().map_or("other", |operation| kind(operation.name()));
        let attempt = UnderWay { watch: Arc::clone(&self.watch), kind, ended: AtomicBool::new(false) };
        bag.interceptor_state().store_put(attempt);
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let error = context.output_or_error().and_then(Result::err);
        let timed_out = || {
            let connector = error.and_then(|e| e.as_connector_error());
            error.is_some_and(OrchestratorError::is_timeout_error)
                || connector.is_some_and(ConnectorError::is_timeout)
        };
        let status = context.response().map(|response| response.status().as_u16());
        let result = match status {
            _ if timed_out() => "timeout",
            Some(429 | 503) => "throttled",
            Some(500..) => "failed",
            Some(400..) => "refused",
            Some(_) if error.is_none() => "ok",
            Some(_) | None => "broken",
        };
        for limit in &self.limits {
            match result {
                "throttled" => limit.throttled(),
                "ok" | "refused" => limit.answered(),
                _ => {}
            }
        }
        if let Some(attempt) = bag.load::<UnderWay>() {
            attempt.end(result);
        }
        Ok(())
    }
}

/// The word of an operation in the metrics.
fn kind(operation: &str) -> &'static str {
    match operation {
        "PutObject" => "put",
        "GetObject" => "get",
        "HeadObject" => "size",
        "HeadBucket" => "ready",
        "DeleteObjects" => "delete",
        "ListObjectsV2" => "list",
        "CreateMultipartUpload" => "upload_begin",
        "UploadPart" => "upload_part",
        "CompleteMultipartUpload" => "upload_complete",
        "AbortMultipartUpload" => "upload_abort",
        "ListMultipartUploads" => "list_uploads",
        _ => "other",
    }
}
