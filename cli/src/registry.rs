//! Schemas of records in Avro: from files, and from a registry that speaks the Confluent Schema Registry's API.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use async_trait::async_trait;
use ingest::worker::{RegistryError, SchemaRegistry};
use serde::Deserialize;
use url::Url;

use crate::{
    config::{AvroSettings, Config},
    fault::{Fault, Result},
};

/// Longest wait for the registry; the worker asks again.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Files go first.
pub(crate) struct Schemas {
    files: BTreeMap<u32, String>,
    registry: Option<Url>,
    client: reqwest::Client,
}

/// What `GET /schemas/ids/{id}` answers.
#[derive(Deserialize)]
struct Answer {
    schema: String,
    /// Absent for Avro.
    #[serde(rename = "schemaType")]
    kind: Option<String>,
}

/// As the configuration says.
pub(crate) fn schemas(config: &Config) -> Result<Schemas> {
    let AvroSettings { registry, schemas } = &config.log.avro;
    let read = |(id, path): (&String, &PathBuf)| {
        let setting = format!("log.avro.schemas.{id}");
        let id: u32 = id.parse().map_err(|_| {
            Fault::usage(format!("{setting}: a schema id is a number")).help("for example 7 = \"event.v1.avsc\"")
        })?;
        let schema = std::fs::read_to_string(path)
            .map_err(|error| Fault::usage(format!("{setting}: cannot read `{}`", path.display())).source(error))?;
        schemas::avro::Plan::compile(&schema).map_err(|error| {
            Fault::usage(format!("{setting}: `{}` is no schema of events", path.display())).source(error)
        })?;
        Ok((id, schema))
    };
    let address = |url: &String| {
        let parsed = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        // It is not repeated: it may hold a password.
        parsed.ok_or_else(|| Fault::usage("log.avro.registry takes the URL of a registry, http://… or https://…"))
    };
    let client = reqwest::Client::builder().timeout(ANSWER_MAX).build();
    Ok(Schemas {
        files: schemas.iter().map(read).collect::<Result<_>>()?,
        registry: registry.as_ref().map(address).transpose()?,
        client: client.map_err(|error| Fault::failed("cannot set up the registry's client").source(error))?,
    })
}

#[async_trait]
impl SchemaRegistry for Schemas {
    async fn schema(&self, id: u32) -> Result<Option<String>, RegistryError> {
        if let Some(schema) = self.files.get(&id) {
            return Ok(Some(schema.clone()));
        }
        let Some(registry) = &self.registry else { return Ok(None) };
        let mut url = registry.clone();
        url.path_segments_mut().map_err(|()| "the registry's URL takes no path")?.pop_if_empty().extend([
            "schemas",
            "ids",
            &id.to_string(),
        ]);
        // The error would repeat the URL, which may hold a password.
        let response = self.client.get(url).send().await.map_err(reqwest::Error::without_url)?;
        if response.status() == reqwest::StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let answer: Answer = response.error_for_status().map_err(reqwest::Error::without_url)?.json().await?;
        // Protobuf and JSON Schema have the same header before another encoding.
        Ok((answer.kind.as_deref().unwrap_or("AVRO") == "AVRO").then_some(answer.schema))
    }
}

#[cfg(test)]
mod tests {
    use axum::{Json, Router, extract::Path, http::StatusCode, routing::get};
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_registry_is_asked_for_what_no_file_has() {
        let answer = |Path(id): Path<u32>| async move {
            match id {
                7 => Ok(Json(json!({ "schema": "\"string\"" }))),
                8 => Ok(Json(json!({ "schema": "syntax = \"proto3\";", "schemaType": "PROTOBUF" }))),
                9 => Err(StatusCode::INTERNAL_SERVER_ERROR),
                _ => Err(StatusCode::NOT_FOUND),
            }
        };
        let routes: Router = Router::new().route("/registry/schemas/ids/{id}", get(answer));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async { axum::serve(listener, routes).await });
        let schemas = Schemas {
            files: BTreeMap::from([(1, "\"int\"".to_owned())]),
            registry: Some(format!("http://{address}/registry/").parse().expect("a URL")),
            client: reqwest::Client::new(),
        };
        let schema = async |id| schemas.schema(id).await.map_err(|error| error.to_string());
        assert_eq!(schema(1).await, Ok(Some("\"int\"".into())));
        assert_eq!(schema(7).await, Ok(Some("\"string\"".into())));
        assert_eq!((schema(8).await, schema(10).await), (Ok(None), Ok(None)));
        assert!(schema(9).await.is_err_and(|error| error.contains("500") && !error.contains("registry")));
    }
}
