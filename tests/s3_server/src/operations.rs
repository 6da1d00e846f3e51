//! Operations of S3 on objects.

use std::path::Path;
use std::sync::Arc;

use futures::StreamExt as _;
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput,
    DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject,
    GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput, ListObjectsInput,
    ListObjectsOutput, ListObjectsV2Input, ListObjectsV2Output, PutObjectInput, PutObjectOutput,
    Timestamp, UploadPartInput, UploadPartOutput,
};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use tokio::task::block_in_place;

use crate::files::{Conditions, Content, Files, failed, tag_of, write};
use crate::list::list;
use crate::uploads::Uploads;

/// Most names in an answer.
const MOST: i32 = 1000;

/// Store of all connections.
#[derive(Clone)]
pub struct Store(Arc<(Files, Uploads)>);

impl Store {
    /// Store in a folder, which waits for the disk if `syncs` is true.
    pub fn new(folder: &Path, syncs: bool) -> Self {
        Self(Arc::new((Files::new(folder, syncs), Uploads::default())))
    }

    fn files(&self) -> &Files {
        &self.0.0
    }

    fn uploads(&self) -> &Uploads {
        &self.0.1
    }
}

/// Result of an operation.
type Answer<T> = S3Result<S3Response<T>>;

fn answer<T>(output: T) -> Answer<T> {
    Ok(S3Response::new(output))
}

fn length_of(header: Option<i64>) -> S3Result<u64> {
    let length = header.and_then(|length| u64::try_from(length).ok());
    length.ok_or_else(|| s3_error!(MissingContentLength))
}

#[async_trait::async_trait]
impl S3 for Store {
    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> Answer<HeadObjectOutput> {
        let input = request.input;
        let (_, metadata) = self.files().open(&input.bucket, &input.key)?;
        let conditions = Conditions {
            matching: input.if_match,
            none: input.if_none_match,
        };
        conditions.require_of_read(&metadata)?;
        answer(HeadObjectOutput {
            content_length: Some(metadata.len().cast_signed()),
            e_tag: Some(tag_of(&metadata)),
            last_modified: metadata.modified().ok().map(Timestamp::from),
            ..HeadObjectOutput::default()
        })
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> Answer<GetObjectOutput> {
        let input = request.input;
        let (file, metadata) = self.files().open(&input.bucket, &input.key)?;
        let conditions = Conditions {
            matching: input.if_match,
            none: input.if_none_match,
        };
        conditions.require_of_read(&metadata)?;
        let size = metadata.len();
        let range = match input.range {
            Some(range) => range.check(size)?,
            None => 0..size,
        };
        let (first, last) = (range.start, range.end.saturating_sub(1));
        let is_part = input.range.is_some();
        answer(GetObjectOutput {
            content_length: Some((range.end - range.start).cast_signed()),
            content_range: is_part.then(|| format!("bytes {first}-{last}/{size}")),
            e_tag: Some(tag_of(&metadata)),
            last_modified: metadata.modified().ok().map(Timestamp::from),
            body: Some(Content::stream(file, range.start, range.end)),
            ..GetObjectOutput::default()
        })
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> Answer<PutObjectOutput> {
        let input = request.input;
        let written = self.files().create()?;
        let length = length_of(input.content_length)?;
        write(input.body, &written.file, 0, length).await?;
        let conditions = Conditions {
            matching: input.if_match,
            none: input.if_none_match,
        };
        let (bucket, key) = (input.bucket, input.key);
        let tag = block_in_place(|| self.files().place(&written, &bucket, &key, &conditions))?;
        answer(PutObjectOutput {
            e_tag: Some(tag),
            ..PutObjectOutput::default()
        })
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> Answer<CreateMultipartUploadOutput> {
        let CreateMultipartUploadInput { bucket, key, .. } = request.input;
        let id = self.uploads().begin(self.files(), &bucket, &key)?;
        answer(CreateMultipartUploadOutput {
            bucket: Some(bucket),
            key: Some(key),
            upload_id: Some(id),
            ..CreateMultipartUploadOutput::default()
        })
    }

    async fn upload_part(&self, request: S3Request<UploadPartInput>) -> Answer<UploadPartOutput> {
        let mut input = request.input;
        let upload = (self.uploads()).get(&input.upload_id, &input.bucket, &input.key);
        if upload.is_err()
            && let Some(body) = input.body.take()
        {
            // A client that is refused while it sends does not read why.
            body.for_each(async |_| ()).await;
        }
        let upload = upload?;
        let (number, length) = (input.part_number, length_of(input.content_length)?);
        if !(1..=10_000).contains(&number) {
            return Err(s3_error!(InvalidArgument));
        }
        let start = upload.reserve(number, length);
        write(input.body, upload.file(), start, length).await?;
        answer(UploadPartOutput {
            e_tag: Some(upload.add(number, start, length)),
            ..UploadPartOutput::default()
        })
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> Answer<CompleteMultipartUploadOutput> {
        let input = request.input;
        let (bucket, key) = (input.bucket, input.key);
        let upload = self.uploads().get(&input.upload_id, &bucket, &key)?;
        let parts = input.multipart_upload.and_then(|upload| upload.parts);
        let conditions = Conditions {
            matching: input.if_match,
            none: input.if_none_match,
        };
        let tag = block_in_place(|| {
            let files = self.files();
            let assembled = upload.assemble(files, &parts.unwrap_or_default())?;
            let written = assembled.as_ref().unwrap_or(upload.written());
            files.place(written, &bucket, &key, &conditions)
        })?;
        self.uploads().end(&input.upload_id);
        answer(CompleteMultipartUploadOutput {
            bucket: Some(bucket),
            key: Some(key),
            e_tag: Some(tag),
            ..CompleteMultipartUploadOutput::default()
        })
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> Answer<AbortMultipartUploadOutput> {
        let input = request.input;
        (self.uploads()).get(&input.upload_id, &input.bucket, &input.key)?;
        self.uploads().end(&input.upload_id);
        answer(AbortMultipartUploadOutput::default())
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> Answer<DeleteObjectOutput> {
        self.files()
            .remove(&request.input.bucket, &request.input.key)?;
        answer(DeleteObjectOutput::default())
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> Answer<DeleteObjectsOutput> {
        let input = request.input;
        let mut deleted = Vec::new();
        for object in input.delete.objects {
            self.files().remove(&input.bucket, &object.key)?;
            deleted.push(DeletedObject {
                key: Some(object.key),
                ..DeletedObject::default()
            });
        }
        answer(DeleteObjectsOutput {
            deleted: Some(deleted),
            ..DeleteObjectsOutput::default()
        })
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> Answer<ListObjectsV2Output> {
        let input = request.input;
        let after = (input.continuation_token.as_ref()).or(input.start_after.as_ref());
        let most = input.max_keys.unwrap_or(MOST).min(MOST);
        let found = list(
            &self.files().bucket(&input.bucket)?,
            input.prefix.as_deref().unwrap_or_default(),
            input.delimiter.as_deref(),
            after.map_or("", |after| after),
            usize::try_from(most).unwrap_or_default(),
        );
        let found = found.map_err(failed)?;
        let count = found.objects.len() + found.prefixes.len();
        answer(ListObjectsV2Output {
            key_count: i32::try_from(count).ok(),
            is_truncated: Some(found.next.is_some()),
            next_continuation_token: found.next,
            contents: Some(found.objects),
            common_prefixes: Some(found.prefixes),
            name: Some(input.bucket),
            prefix: input.prefix,
            delimiter: input.delimiter,
            max_keys: Some(most),
            ..ListObjectsV2Output::default()
        })
    }

    async fn list_objects(
        &self,
        request: S3Request<ListObjectsInput>,
    ) -> Answer<ListObjectsOutput> {
        let found = self.list_objects_v2(request.map_input(Into::into)).await?;
        Ok(found.map_output(|found| ListObjectsOutput {
            is_truncated: found.is_truncated,
            next_marker: found.next_continuation_token,
            contents: found.contents,
            common_prefixes: found.common_prefixes,
            name: found.name,
            prefix: found.prefix,
            delimiter: found.delimiter,
            max_keys: found.max_keys,
            ..ListObjectsOutput::default()
        }))
    }
}
