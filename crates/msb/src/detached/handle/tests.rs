//! What a client tells of a guest or a supervisor that says nothing.

use tokio::net::UnixListener;
use tokio::sync::watch;

use super::*;
use crate::detached::control::{self, Server, Told};
use crate::sandbox::tests::stand_in;

/// A sandbox that this process holds, so that it is not over.
fn held() -> (tempfile::TempDir, StateDir, Name, msb_state::Owned) {
    let temporary = tempfile::tempdir().unwrap();
    let states = StateDir::open(temporary.path().join("state")).unwrap();
    let name: Name = "worker".parse().unwrap();
    states.create(&name, serde_json::json!({})).unwrap();
    let owned = states.own(&name).unwrap();
    (temporary, states, name, owned)
}

#[tokio::test]
async fn a_supervisor_that_says_nothing_is_told_with_what_to_do() {
    let (_temporary, states, name, _owned) = held();
    tokio::time::pause();
    for asked in ["stop", "kill", "wait", "pause", "inspect", "logs"] {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let handle = SandboxHandle::connect(states.clone(), name.clone(), ours);
        let handle = handle.await.unwrap();
        let limit = Duration::from_secs(1);
        let error = match asked {
            "stop" => handle.stop(limit).await.unwrap_err(),
            "kill" => handle.kill().await.unwrap_err(),
            "wait" => handle.wait().await.unwrap_err(),
            "pause" => handle.pause().await.unwrap_err(),
            "inspect" => handle.inspect().await.unwrap_err(),
            _ => handle.logs(None, true).await.unwrap_err(),
        };
        let text = error.to_string();
        assert!(text.contains("`msb rm -f worker`"), "{asked}: {text}");
    }
}

#[tokio::test]
async fn a_guest_that_says_nothing_is_told_with_its_consoles_last_lines() {
    let (temporary, states, name, owned) = held();
    let machine = stand_in().await;
    let listener = UnixListener::bind(temporary.path().join("control")).unwrap();
    let stream = UnixStream::connect(temporary.path().join("control"));
    let stream = stream.await.unwrap();
    let (to_agent, _agent) = UnixStream::pair().unwrap();
    let (agent, _driver) = agent::open(to_agent).await.unwrap();
    let (asks, _asked) = mpsc::channel(1);
    let (_told_end, ended) = watch::channel(None);
    let (_write, written) = watch::channel(0);
    let told = Told {
        agent,
        asks,
        ended,
        written,
        states: states.clone(),
        name: name.clone(),
        facts: Arc::new(control::Facts {
            vmm_pid: 1,
            ports: Vec::new(),
            accelerator: "tcg",
            command_pid: None,
            has_tty: false,
            ca_pem: None,
        }),
        machine,
        paused: Arc::default(),
        stdin: None,
    };
    let _server = Server::start(listener, told);
    let handle = SandboxHandle::connect(states, name, stream).await.unwrap();
    // Before its lines are read they may not have come.
    while handle.remote.last_lines().await != "last words" {
        tokio::task::yield_now().await;
    }
    tokio::time::pause();
    let error = handle.exec("true", [""; 0]).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::NoAnswer { .. }), "{text}");
    assert!(text.ends_with("its last lines were:\nlast words"), "{text}");
    drop(owned);
}
