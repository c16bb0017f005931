//! The host's calls, served over the agent port until power-off.

use std::fs::File;
use std::sync::OnceLock;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use msb_agent_proto::v1::agent_server::{Agent, AgentServer};
use msb_agent_proto::v1::exec_input::Input;
use msb_agent_proto::v1::{
    ConfigureRequest, ConfigureResponse, ExecInput, ExecOutput, FileData, FileDone, FileInfo,
    FileInput, FileList, FileRequest, MeasureRequest, Measurements, PackTreeRequest,
    PowerOffRequest, PowerOffResponse, ResizeRequest, ResizeResponse, SetClockRequest,
    SetClockResponse, SignalRequest, SignalResponse, UnpackTreeResponse,
};
use msb_agent_proto::{CONNECTION_WINDOW_BYTES, CONTRACT, FRAME_BYTES, STREAM_WINDOW_BYTES};
use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::boot;
use crate::configure::{self, Defaults};
use crate::error::Error;
use crate::exec::{self, Programs};
use crate::port::Port;
use crate::reaper::Reaper;
use crate::shortage::Shortage;
use crate::terminal::Terminals;
use crate::{child, clock, files, measure, power};

/// How long the reply to a power-off call may take to leave when execs are still running.
const REPLY_GRACE: Duration = Duration::from_millis(50);

/// Serves until the host asks for power-off or its connection ends.
pub(crate) async fn serve(device: File) -> Result<(), Error> {
    let port = Port::new(device).map_err(Error::AgentPort)?;
    let reaper = Reaper::default();
    reaper.start().map_err(Error::Reaper)?;
    let (power_off, mut asked) = mpsc::channel(1);
    let service = Service {
        programs: Programs {
            reaper,
            terminals: Terminals::default(),
            shortage: Shortage::open(),
        },
        defaults: OnceLock::new(),
        configuring: tokio::sync::Mutex::new(()),
        power_off,
    };
    let connection = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .serve_connection(
            TokioIo::new(port),
            TowerToHyperService::new(AgentServer::new(service)),
        );
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        result = &mut connection => result.map_err(Error::Serve)?,
        _ = asked.recv() => {
            // Running execs would keep a graceful end waiting; the reply just needs to leave.
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(REPLY_GRACE, connection).await;
        }
    }
    power::end_processes().await;
    Ok(())
}

struct Service {
    programs: Programs,
    defaults: OnceLock<Defaults>,
    configuring: tokio::sync::Mutex<()>,
    power_off: mpsc::Sender<()>,
}

impl Service {
    fn running(&self, pid: u32) -> Result<(), Status> {
        let running = i32::try_from(pid).is_ok_and(|pid| self.programs.reaper.is_running(pid));
        running.then_some(()).ok_or_else(|| nobody(pid))
    }
}

fn nobody(pid: u32) -> Status {
    Status::not_found(format!("no exec has the process id {pid}"))
}

#[tonic::async_trait]
impl Agent for Service {
    type ExecStream = ReceiverStream<Result<ExecOutput, Status>>;
    type ListDirectoryStream = ReceiverStream<Result<FileList, Status>>;
    type ReadFileStream = ReceiverStream<Result<FileData, Status>>;
    type PackTreeStream = ReceiverStream<Result<FileData, Status>>;

    async fn configure(
        &self,
        request: Request<ConfigureRequest>,
    ) -> Result<Response<ConfigureResponse>, Status> {
        let _one_at_a_time = self.configuring.lock().await;
        if self.defaults.get().is_some() {
            return Err(Status::failed_precondition(
                "the guest is already configured",
            ));
        }
        let request = request.into_inner();
        for mount in &request.mounts {
            boot::mount_share(mount).map_err(|error| {
                Status::failed_precondition(format!("cannot mount {}: {error}", mount.path))
            })?;
        }
        let ulimits = child::limits(&request.ulimits)?;
        let (environment, warnings) = configure::configure(request);
        let _ = self.defaults.set(Defaults {
            environment,
            ulimits,
        });
        Ok(Response::new(ConfigureResponse {
            warnings,
            contract: CONTRACT,
        }))
    }

    async fn exec(
        &self,
        request: Request<Streaming<ExecInput>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        let defaults = self
            .defaults
            .get()
            .ok_or_else(|| Status::failed_precondition("the guest is not configured yet"))?;
        let mut input = request.into_inner();
        let Some(ExecInput {
            input: Some(Input::Start(start)),
        }) = input.message().await?
        else {
            return Err(Status::invalid_argument(
                "the first message must be `start`",
            ));
        };
        let output = exec::start(&self.programs, defaults, &start, input)?;
        Ok(Response::new(ReceiverStream::new(output)))
    }

    async fn signal(
        &self,
        request: Request<SignalRequest>,
    ) -> Result<Response<SignalResponse>, Status> {
        let SignalRequest { pid, signal } = request.into_inner();
        let number = signal;
        let signal = Signal::from_named_raw(number)
            .ok_or_else(|| Status::invalid_argument(format!("{number} is not a signal")))?;
        self.running(pid)?;
        exec::signal_group(pid, signal).map_err(|_| nobody(pid))?;
        Ok(Response::new(SignalResponse {}))
    }

    async fn resize(
        &self,
        request: Request<ResizeRequest>,
    ) -> Result<Response<ResizeResponse>, Status> {
        let ResizeRequest { pid, size } = request.into_inner();
        self.running(pid)?;
        let size = size.ok_or_else(|| Status::invalid_argument("there is no size"))?;
        self.programs.terminals.resize(pid, &size)?;
        Ok(Response::new(ResizeResponse {}))
    }

    async fn describe_file(
        &self,
        request: Request<FileRequest>,
    ) -> Result<Response<FileInfo>, Status> {
        let described = files::describe(request.into_inner()).await;
        described.map(Response::new)
    }

    async fn list_directory(
        &self,
        request: Request<FileRequest>,
    ) -> Result<Response<Self::ListDirectoryStream>, Status> {
        let lists = files::list(request.into_inner())?;
        Ok(Response::new(ReceiverStream::new(lists)))
    }

    async fn make_directory(
        &self,
        request: Request<FileRequest>,
    ) -> Result<Response<FileDone>, Status> {
        let made = files::make_directory(request.into_inner()).await;
        made.map(Response::new)
    }

    async fn remove_file(
        &self,
        request: Request<FileRequest>,
    ) -> Result<Response<FileDone>, Status> {
        let removed = files::remove(request.into_inner()).await;
        removed.map(Response::new)
    }

    async fn read_file(
        &self,
        request: Request<FileRequest>,
    ) -> Result<Response<Self::ReadFileStream>, Status> {
        let pieces = files::read(request.into_inner())?;
        Ok(Response::new(ReceiverStream::new(pieces)))
    }

    async fn write_file(
        &self,
        request: Request<Streaming<FileInput>>,
    ) -> Result<Response<FileDone>, Status> {
        let written = files::write(request.into_inner()).await;
        written.map(Response::new)
    }

    async fn pack_tree(
        &self,
        request: Request<PackTreeRequest>,
    ) -> Result<Response<Self::PackTreeStream>, Status> {
        let pieces = files::pack(request.into_inner())?;
        Ok(Response::new(ReceiverStream::new(pieces)))
    }

    async fn unpack_tree(
        &self,
        request: Request<Streaming<FileInput>>,
    ) -> Result<Response<UnpackTreeResponse>, Status> {
        let unpacked = files::unpack(request.into_inner()).await;
        unpacked.map(Response::new)
    }

    async fn set_clock(
        &self,
        request: Request<SetClockRequest>,
    ) -> Result<Response<SetClockResponse>, Status> {
        let behind_ns = clock::set_forward(request.into_inner().unix_ns)
            .map_err(|error| Status::internal(format!("cannot set the clock: {error}")))?;
        Ok(Response::new(SetClockResponse { behind_ns }))
    }

    async fn measure(
        &self,
        _request: Request<MeasureRequest>,
    ) -> Result<Response<Measurements>, Status> {
        Ok(Response::new(measure::measure()))
    }

    async fn power_off(
        &self,
        _request: Request<PowerOffRequest>,
    ) -> Result<Response<PowerOffResponse>, Status> {
        // A full queue means that it has been asked already.
        let _ = self.power_off.try_send(());
        Ok(Response::new(PowerOffResponse {}))
    }
}
