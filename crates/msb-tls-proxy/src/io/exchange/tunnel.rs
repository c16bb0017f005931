//! A CONNECT and its answer; what follows is for whoever drives the connection.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{Request, Response, StatusCode, request};
use http_body_util::{Either, Full};
use msb_policy::HttpPolicy;
use msb_secrets::SecretSet;

use super::{AnswerBody, RequestContext};
use crate::Event;
use crate::io::body::RequestBody;
use crate::io::bridge::lock;
use crate::io::client::{Client, Unserved};
use crate::io::incoming::Incoming;
use crate::session::body::Treatment;
use crate::session::head::{self, Refused};
use crate::session::{response as answered, tunnel};

impl RequestContext {
    pub(super) async fn tunnel(
        mut self,
        client: Arc<Client>,
        mut head: request::Parts,
        incoming: Incoming,
        (secrets, rules): (SecretSet, &HttpPolicy),
    ) -> Result<Response<AnswerBody>, Unserved> {
        let session = Arc::clone(&self.session);
        let rewritten = tunnel::rewrite(&mut head, &session.connection, &secrets);
        let (rewriter, notes, target) = match rewritten {
            Ok(rewritten) => rewritten,
            Err(Refused::Answer { status, reason }) => {
                return Ok(session.refuse(status, reason));
            }
            Err(Refused::Denied(denial)) => return self.denied(denial).await,
            Err(Refused::Violation { violation, .. }) => {
                self.violation(violation);
                return std::future::pending().await;
            }
        };
        if rules.governs(target.host()) {
            let reason = format!(
                "HTTP rules name {}: requests in a tunnel could not be read",
                target.host()
            );
            return Ok(session.refuse(StatusCode::FORBIDDEN, reason));
        }
        self.path = Some(target.to_string());
        self.report(notes);
        let mut scrubber = head::scrubber(&session.connection, &secrets);
        let context = Arc::new(self);
        let Treatment { transform, .. } = Treatment::none();
        let body =
            RequestBody::of_request(incoming, transform, rewriter, None, Arc::clone(&context));
        // Before the answer: the end of its connection must not be taken for the end of the guest's.
        session.switch.asked.store(true, Ordering::Relaxed);
        let request = Request::from_parts(head, Box::new(body));
        let mut answer = match client.send(request).await {
            Ok(answer) => answer,
            Err(no_answer) => return context.unanswered(no_answer).await,
        };
        if !answer.status().is_success() {
            session.switch.asked.store(false, Ordering::Relaxed);
            return Ok(context.pass_on(answer, false, scrubber).await);
        }
        // Else of the server's connection, and the library may keep something of it there.
        answer.extensions_mut().clear();
        let (mut head, _) = answer.into_parts();
        if let Err(fault) = tunnel::opened(&mut head) {
            return Ok(context.bad_gateway(&format!("{}: {fault}", session.host())));
        }
        if let Some(scrubber) = &mut scrubber {
            answered::scrub(&mut head, scrubber);
            context.report(scrubber.take_notes());
        }
        (session.events)(Event::Request {
            host: session.host().clone(),
            port: session.port(),
            method: context.method.as_str().to_owned(),
            path: context.path.clone().unwrap_or_default(),
            status: head.status.as_u16(),
        });
        *lock(&session.switch.done) = Some(context.switched(true, None, None));
        Ok(Response::from_parts(head, Either::Right(Full::default())))
    }
}
