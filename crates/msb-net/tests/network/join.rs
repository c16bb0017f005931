//! Flows joined with their upstream: what one side does to its connection, the other sees.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::guest::{GuestTcp, soon};
use crate::rig::{Rig, gateway, pattern};

/// Both ends of a relayed connection.
async fn connected(rig: &mut Rig) -> (GuestTcp, TcpStream) {
    rig.relay();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let guest = rig.guest.connect(gateway(port)).await.unwrap();
    let (server, _) = soon(listener.accept()).await.unwrap();
    (guest, server)
}

#[tokio::test]
async fn a_reset_by_the_guest_reaches_the_server_after_the_data_before_it() {
    let mut rig = Rig::new("host");
    let (guest, mut server) = connected(&mut rig).await;
    let data = pattern(100_000);
    guest.write_all(&data).await.unwrap();
    let mut received = vec![0; data.len()];
    soon(server.read_exact(&mut received)).await.unwrap();
    assert!(received == data);
    guest.abort();
    let error = soon(server.read(&mut received)).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_reset_by_the_server_reaches_the_guest() {
    let mut rig = Rig::new("host");
    let (guest, server) = connected(&mut rig).await;
    server.set_zero_linger().unwrap();
    drop(server);
    let error = soon(guest.read_to_end()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_reset_by_the_guest_reaches_a_server_that_takes_no_data() {
    let mut rig = Rig::new("host");
    let (guest, mut server) = connected(&mut rig).await;
    let writing = async {
        loop {
            guest.write_all(&[1; 100_000]).await.unwrap();
        }
    };
    // By then every buffer on the way is full.
    let stuck = tokio::time::timeout(std::time::Duration::from_millis(500), writing);
    assert!(stuck.await.is_err());
    guest.abort();
    let error = soon(async {
        loop {
            if let Err(error) = server.write_all(&[2; 1]).await {
                return error;
            }
            tokio::task::yield_now().await;
        }
    });
    assert!(matches!(
        error.await.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    ));
}

#[tokio::test]
async fn each_side_may_close_its_half_and_go_on_reading() {
    for guest_first in [true, false] {
        let mut rig = Rig::new("host");
        let (guest, mut server) = connected(&mut rig).await;
        let data = pattern(1_000_000);
        let mut received = Vec::new();
        if guest_first {
            guest.close();
            soon(server.read_to_end(&mut received)).await.unwrap();
            server.write_all(&data).await.unwrap();
            drop(server);
            assert!(soon(guest.read_to_end()).await.unwrap() == data);
        } else {
            server.shutdown().await.unwrap();
            assert!(soon(guest.read_to_end()).await.unwrap().is_empty());
            guest.write_all(&data).await.unwrap();
            guest.close();
            soon(server.read_to_end(&mut received)).await.unwrap();
            assert!(received == data);
        }
    }
}
