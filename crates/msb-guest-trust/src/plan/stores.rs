//! What becomes of stores that are edited rather than appended to: of Java, of NSS, and policies of browsers.

use super::{Change, Planner, file_name};
use crate::error::{Problem, Purpose, Reason};
use crate::facts::{ChromiumFacts, NssFacts, PolicyFacts, StoreFacts};
use crate::places::{CHROMIUM_POLICY_FILE, FILE_PREFIX, RUNTIME_DIRECTORY};
use crate::{java, nss, policies};

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

    pub(super) fn firefox(&mut self) {
        let (facts, cas) = (self.facts, self.for_clients);
        if facts.firefox.is_empty() {
            return;
        }
        let ours = format!("{RUNTIME_DIRECTORY}/{FILE_PREFIX}");
        let mut files = Vec::new();
        if let Ok(directory) = &facts.runtime {
            for ca in cas {
                let name = file_name(ca, "pem");
                files.push(format!("{RUNTIME_DIRECTORY}/{name}"));
                self.write(
                    directory.join(name),
                    Purpose::Runtime,
                    ca.pem().into_bytes(),
                );
            }
        }
        for file in &facts.firefox {
            let edited = policies::firefox(file.content.as_deref(), &ours, &files);
            self.policies(file, edited);
        }
    }

    pub(super) fn chromium(&mut self, facts: &ChromiumFacts) {
        let edited = policies::chromium(CHROMIUM_POLICY_FILE, &facts.others, self.for_clients);
        self.policies(&facts.ours, edited);
    }

    fn policies(&mut self, file: &PolicyFacts, edited: Result<Option<Vec<u8>>, Reason>) {
        let edited = match edited {
            Ok(edited) => edited,
            // Where nothing is to be trusted, what cannot be read is none of ours.
            Err(_) if !self.plan.requested => return,
            Err(reason) => {
                let problem = Problem::Policies { reason };
                return self.fail(&file.path, Purpose::BrowserPolicy, problem);
            }
        };
        if edited == file.content {
            return;
        }
        if let Some(problem) = file.blocked.clone() {
            return self.fail(&file.path, Purpose::BrowserPolicy, problem);
        }
        let change = match edited {
            Some(content) => Change::Write(content.into()),
            None => Change::Remove,
        };
        self.plan
            .act(file.path.clone(), Purpose::BrowserPolicy, change);
    }
}
