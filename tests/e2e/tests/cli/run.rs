//! `msb run` when all is well.

use msb_e2e::{API, Origins, PINNED, on_guests};

use crate::{OWN_FAILURE, Place, finish};

const VALUE: &str = "sk-canary-88c1";

#[test]
fn a_command_with_a_secret_runs_as_written_in_the_manual() {
    on_guests(async {
        let origins = Origins::start(0).await;
        let place = Place::new();
        let port = origins.port(API).to_string();
        let root = origins.root_file();
        let line = format!(
            "curl -sS {}/v1 -H \"Authorization: Bearer $API_KEY\"; echo complaint >&2; exit 9",
            origins.url(API)
        );
        let mut command = place.msb([
            "run",
            "--secret",
            &format!("API_KEY@{API}"),
            "--add-host",
            &format!("{API}:host-gateway"),
            "--net",
            "public,host",
            "--tls-intercept-port",
            &port,
            "--tls-upstream-ca-cert",
            root.to_str().expect("UTF-8"),
            "--tls-bypass",
            PINNED,
            "base",
            "--",
            "sh",
            "-c",
            &line,
        ]);
        command.env("API_KEY", VALUE);
        let ended = finish(command, Vec::new()).await;
        assert_eq!(ended.code, Some(9), "{ended:?}");
        assert_eq!(
            String::from_utf8_lossy(&ended.stdout),
            format!("hello from {API}\n")
        );
        assert_eq!(ended.stderr, "complaint\n");
        let requests = origins.api.requests();
        assert_eq!(requests.len(), 1);
        assert_eq!(
            requests[0].only_header("authorization"),
            Some(format!("Bearer {VALUE}"))
        );
        place.check_nothing_is_left("after the command's end");
    });
}

#[test]
fn megabytes_pass_through_and_exit_codes_are_the_commands() {
    on_guests(async {
        let place = Place::new();
        let input: Vec<u8> = (0..1_500_000_u32)
            .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
            .collect();
        let line = "cat; head -c 3000000 /dev/zero | tr '\\0' e >&2; exit 42";
        let command = place.msb(["run", "-i", "base", "--", "sh", "-c", line]);
        let ended = finish(command, input.clone()).await;
        assert_eq!(ended.code, Some(42), "{:.300}", ended.stderr);
        assert!(
            ended.stdout == input,
            "{} bytes came back",
            ended.stdout.len()
        );
        assert!(ended.stderr.len() == 3_000_000 && ended.stderr.bytes().all(|b| b == b'e'));

        for (command, code, stderr) in [
            (
                ["no-such-program"].as_slice(),
                127,
                "msb: no such program in the guest: no-such-program",
            ),
            (
                &["/etc/passwd"],
                126,
                "msb: the guest cannot execute /etc/passwd",
            ),
            (&["sh", "-c", "kill -TERM $$"], 143, ""),
        ] {
            let args = ["run", "base", "--"]
                .into_iter()
                .chain(command.iter().copied());
            let ended = finish(place.msb(args), Vec::new()).await;
            assert_eq!(ended.code, Some(code), "{ended:?}");
            assert!(ended.stderr.starts_with(stderr), "{ended:?}");
            let lines = usize::from(!stderr.is_empty());
            assert_eq!(ended.stderr.lines().count(), lines, "{ended:?}");
        }
        place.check_nothing_is_left("after each command's end");
    });
}

#[test]
fn output_that_cannot_be_written_ends_the_run() {
    on_guests(async {
        let place = Place::new();
        let mut command = place.msb(["run", "base", "--", "sh", "-c", "echo x; sleep 600"]);
        let full = std::fs::File::options().write(true).open("/dev/full");
        command.stdout(full.expect("every Linux has it"));
        let ended = finish(command, Vec::new()).await;
        assert_eq!(ended.code, Some(OWN_FAILURE), "{ended:?}");
        assert!(ended.stderr.contains("standard output"), "{ended:?}");
        place.check_nothing_is_left("after a failed write");
    });
}

#[test]
fn environment_directory_and_name_are_those_asked_for() {
    on_guests(async {
        let place = Place::new();
        let args = "run --name box-7 -e MODE=test -e HANDED_ON -w /usr/lib --memory 256 --cpus 2 base -- sh -c";
        let line = "echo $(hostname) $MODE $HANDED_ON $(pwd) $(nproc)";
        let mut command = place.msb(args.split(' ').chain([line]));
        command.env("HANDED_ON", "a b");
        let ended = finish(command, Vec::new()).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert_eq!(
            String::from_utf8_lossy(&ended.stdout),
            "box-7 test a b /usr/lib 2\n"
        );
    });
}
