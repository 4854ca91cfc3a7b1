//! How a server ends: asked to by a signal, or because its engine has failed for good.

use std::{future::pending, sync::Arc, time::Duration};

use crate::support::{Server, config};
use quern::{
    shutdown::{self, ShutdownCause, Signals},
    start_error::StartError,
};
use quern_engine::DeviceFault;
use serde_json::json;
use tokio::{sync::watch, time::timeout};

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn an_engine_that_stays_down_ends_the_server_with_a_status_of_its_own() {
    let lost = || DeviceFault::Lost { backend: "fake", cause: "it fell off the bus".into() };
    let server = Server::with(config(), Some(Box::new(move |_| Err(lost().into())))).await;
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(shutdown::run(Arc::clone(&server.state), Signals::listen().unwrap(), pending(), stop));
    assert!(!running.is_finished() && !*stopped.borrow());
    let (status, answer) = server.post("/v1/completions", json!({"prompt": "x", "max_tokens": 2})).await;
    assert!(status == 500 && answer["message"].as_str().unwrap().contains("it fell off the bus"), "{answer}");
    let ending = timeout(PATIENCE, running).await.expect("it ends by itself").unwrap();
    assert_eq!(ending, ShutdownCause::EngineDown);
    assert!(*stopped.borrow(), "connections are told to stop");
    assert_eq!(StartError::EngineDown.exit_status(), 75);
    assert_eq!(StartError::NodeLeft.exit_status(), 75);
    assert_eq!(StartError::Panicked.exit_status(), 1);
}
