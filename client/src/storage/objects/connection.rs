//! Connection to a store by its URL, the environment and options.

use std::str::FromStr;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{ClientConfigKey, ObjectStore, RetryConfig};
use tokio::runtime::Builder;

use super::parts::Chunks;
use super::{Objects, Store, hinted};
use crate::cli::configuration::StoreAccess;

/// Threads that encrypt and sign what goes over the network.
const THREADS: usize = 2;
/// Repetitions of the first request, which finds out whether the store can be reached at all.
const FIRST_RETRIES: usize = 3;
/// Repetitions of a request: as many as fit into the three minutes that the library goes on for. A backup of
/// hours outlives a store that is away for two.
const RETRIES: usize = 100;
/// Time of a request, unless the user has another: a part of the least size at 90 kB/s.
const TIMEOUT: &str = "60 seconds";

type Stores = (Arc<dyn ObjectStore>, Arc<dyn MultipartStore>);

/// Connects to `SCHEME://BUCKET/PREFIX`.
///
/// # Errors
/// An error for a malformed URL and for options that the store does not know, and where the store cannot be
/// reached, does not let this program in or has no such bucket.
pub fn open(url: &str, access: &StoreAccess) -> Result<Objects> {
    let malformed = || format!("URL \"{url}\" is not of the form SCHEME://BUCKET/PREFIX");
    let (scheme, rest) = url.split_once("://").with_context(malformed)?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        bail!("{}", malformed());
    }
    let prefix = Path::parse(prefix).with_context(malformed)?;
    let bucket_url = format!("{scheme}://{bucket}");
    let options = access
        .options
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()));
    let connect = |retry| {
        let options = options.clone();
        let stores = match scheme {
            "s3" => s3(&bucket_url, options, retry),
            "gs" => google(&bucket_url, options, retry),
            "az" => azure(&bucket_url, options, retry),
            _ => bail!(
                "URL \"{url}\" has the unknown scheme \"{scheme}\"\n\
                 HINT:  Known are s3://, gs://, az:// and file://."
            ),
        };
        stores.with_context(|| format!("could not use \"{bucket_url}\""))
    };
    let (probe, _) = connect(RetryConfig {
        max_retries: FIRST_RETRIES,
        ..RetryConfig::default()
    })?;
    let (objects, parts) = connect(RetryConfig {
        max_retries: RETRIES,
        ..RetryConfig::default()
    })?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .context("could not start threads")?;
    let found = runtime.block_on(probe.list_with_delimiter(Some(&prefix)));
    found
        .map_err(hinted)
        .with_context(|| format!("could not list \"{url}\""))?;
    Ok(Objects {
        store: Arc::new(Store {
            runtime,
            objects,
            parts,
            chunks: Chunks::default(),
            keeps_parts: scheme == "az",
            unaborted: Mutex::default(),
            url: bucket_url,
        }),
        prefix,
        limit: None,
    })
}

fn s3<'a>(
    url: &str,
    options: impl Iterator<Item = (&'a str, &'a str)>,
    retry: RetryConfig,
) -> Result<Stores> {
    let mut builder = AmazonS3Builder::from_env().with_url(url);
    let timeout = AmazonS3ConfigKey::Client(ClientConfigKey::Timeout);
    if builder.get_config_value(&timeout).is_none() {
        builder = builder.with_config(timeout, TIMEOUT);
    }
    for (key, value) in options {
        let key = AmazonS3ConfigKey::from_str(key).map_err(|_| unknown(key))?;
        builder = builder.with_config(key, value);
    }
    // TLS protects the bytes already, as it does for other programs of S3.
    let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
    let is_plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    let is_chosen = (builder.get_config_value(&AmazonS3ConfigKey::UnsignedPayload))
        .is_some_and(|value| value == "true");
    builder = builder.with_unsigned_payload(is_chosen || !is_plain);
    let store = Arc::new(builder.with_retry(retry).build()?);
    Ok((store.clone(), store))
}

fn google<'a>(
    url: &str,
    options: impl Iterator<Item = (&'a str, &'a str)>,
    retry: RetryConfig,
) -> Result<Stores> {
    let mut builder = GoogleCloudStorageBuilder::from_env().with_url(url);
    let timeout = GoogleConfigKey::Client(ClientConfigKey::Timeout);
    if builder.get_config_value(&timeout).is_none() {
        builder = builder.with_config(timeout, TIMEOUT);
    }
    for (key, value) in options {
        let key = GoogleConfigKey::from_str(key).map_err(|_| unknown(key))?;
        builder = builder.with_config(key, value);
    }
    let store = Arc::new(builder.with_retry(retry).build()?);
    Ok((store.clone(), store))
}

fn azure<'a>(
    url: &str,
    options: impl Iterator<Item = (&'a str, &'a str)>,
    retry: RetryConfig,
) -> Result<Stores> {
    let mut builder = MicrosoftAzureBuilder::from_env().with_url(url);
    let timeout = AzureConfigKey::Client(ClientConfigKey::Timeout);
    if builder.get_config_value(&timeout).is_none() {
        builder = builder.with_config(timeout, TIMEOUT);
    }
    for (key, value) in options {
        let key = AzureConfigKey::from_str(key).map_err(|_| unknown(key))?;
        builder = builder.with_config(key, value);
    }
    let store = Arc::new(builder.with_retry(retry).build()?);
    Ok((store.clone(), store))
}

fn unknown(key: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "unrecognized store option \"{key}\"\n\
         HINT:  Options have the names of the crate object_store, such as endpoint, region and allow_http."
    )
}
