//! What becomes of stores that are edited rather than appended to: of Java and of NSS.

use super::Planner;
use crate::error::{Problem, Purpose};
use crate::facts::{NssFacts, StoreFacts};
use crate::{java, nss};

impl Planner<'_> {
    pub(super) fn key_store(&mut self, store: &StoreFacts) {
        let problem = match java::with_entries(&store.content, self.for_clients) {
            Ok(content) if content == store.content => return,
            Ok(content) if store.blocked.is_none() => {
                self.write(store.path.clone(), Purpose::KeyStore, content);
                return;
            }
            Ok(_) => store.blocked.clone(),
            // Where nothing is to be trusted, it matters only if there was anything of a former boot.
            Err(_) if !self.plan.requested => None,
            Err(reason) => Some(Problem::KeyStore { reason }),
        };
        if let Some(problem) = problem {
            self.fail(&store.path, Purpose::KeyStore, problem);
        }
    }

    pub(super) fn nss_database(&mut self, database: &NssFacts) {
        let (certificates, keys) = (&database.certificates, &database.keys);
        let of_keys = keys.as_ref().map(|keys| keys.content.as_slice());
        let edited = match nss::with_authorities(&certificates.content, of_keys, self.for_clients) {
            Ok(edited) => edited,
            // Where nothing is to be trusted, it matters only if there was anything of a former boot.
            Err(_) if !self.plan.requested => return,
            Err(reason) => {
                let problem = Problem::Database { reason };
                return self.fail(&certificates.path, Purpose::NssDatabase, problem);
            }
        };
        // The signatures first: what they are for is not trusted before they are there.
        let of_keys = keys.as_ref().zip(edited.keys);
        let of_certificates = edited.certificates.map(|content| (certificates, content));
        let changes: Vec<_> = of_keys.into_iter().chain(of_certificates).collect();
        let blocked = changes
            .iter()
            .find_map(|(file, _)| Some((file, file.blocked.clone()?)));
        if let Some((file, problem)) = blocked {
            return self.fail(&file.path, Purpose::NssDatabase, problem);
        }
        for (file, content) in changes {
            self.write(file.path.clone(), Purpose::NssDatabase, content);
        }
    }
}
