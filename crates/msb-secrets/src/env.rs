//! Names of environment variables: what can be one, and what had better not be a secret's.

use crate::Error;

/// Prefixes of variables that change how programs run, and what those variables do.
const DANGEROUS_PREFIXES: [(&str, &str); 5] = [
    ("LD_", "the dynamic loader reads it"),
    ("DYLD_", "the dynamic loader reads it"),
    ("BASH_FUNC_", "bash runs its content"),
    ("MALLOC_", "the C library reads it"),
    ("GLIBC_", "the C library reads it"),
];

const DANGEROUS: [(&[&str], &str); 7] = [
    (
        &[
            "PATH", "HOME", "SHELL", "USER", "LOGNAME", "PWD", "OLDPWD", "TERM", "TMPDIR", "LANG",
            "LC_ALL", "TZ", "HOSTNAME",
        ],
        "every program relies on it",
    ),
    (
        &[
            "IFS",
            "ENV",
            "BASH_ENV",
            "PS4",
            "PROMPT_COMMAND",
            "SHELLOPTS",
            "BASHOPTS",
            "CDPATH",
        ],
        "the shell acts on it",
    ),
    (
        &[
            "GCONV_PATH",
            "LOCPATH",
            "NLSPATH",
            "HOSTALIASES",
            "RES_OPTIONS",
            "LOCALDOMAIN",
        ],
        "the C library reads it",
    ),
    (
        &[
            "PYTHONPATH",
            "PYTHONHOME",
            "PYTHONSTARTUP",
            "PYTHONINSPECT",
            "PYTHONWARNINGS",
            "NODE_OPTIONS",
            "NODE_PATH",
            "PERL5LIB",
            "PERL5OPT",
            "PERLLIB",
            "RUBYOPT",
            "RUBYLIB",
            "JAVA_TOOL_OPTIONS",
            "_JAVA_OPTIONS",
            "JDK_JAVA_OPTIONS",
            "CLASSPATH",
            "PHPRC",
            "LUA_INIT",
            "RUSTC_WRAPPER",
        ],
        "a language runtime loads or runs what it names",
    ),
    (
        &[
            "EDITOR",
            "VISUAL",
            "PAGER",
            "MANPAGER",
            "BROWSER",
            "GIT_SSH",
            "GIT_SSH_COMMAND",
            "GIT_ASKPASS",
            "SSH_ASKPASS",
            "GIT_EXEC_PATH",
            "GIT_PAGER",
            "GIT_EDITOR",
            "SUDO_ASKPASS",
        ],
        "programs run what it names",
    ),
    (
        &[
            "SSL_CERT_FILE",
            "SSL_CERT_DIR",
            "SSLKEYLOGFILE",
            "OPENSSL_CONF",
            "CURL_CA_BUNDLE",
            "REQUESTS_CA_BUNDLE",
            "PIP_CERT",
            "NODE_EXTRA_CA_CERTS",
            "GIT_SSL_CAINFO",
            "AWS_CA_BUNDLE",
            "CARGO_HTTP_CAINFO",
            "DENO_TLS_CA_STORE",
            "DENO_CERT",
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
        ],
        "TLS libraries read it",
    ),
    (
        &[
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
            "NO_PROXY",
            "FTP_PROXY",
        ],
        "programs send their traffic where it says",
    ),
];

/// Checks a secret's environment variable.
pub(crate) fn check(env: &str) -> Result<(), Error> {
    let bad = |problem| {
        Err(Error::BadEnv {
            env: env.to_owned(),
            problem,
        })
    };
    if env.is_empty() {
        return Err(Error::MissingEnv);
    }
    if env.contains('=') {
        return bad("a variable's name cannot contain `=`");
    }
    if env.contains('\0') {
        return bad("a variable's name cannot contain NUL");
    }
    if !env.bytes().all(|b| b.is_ascii_graphic()) {
        return bad("a variable's name is expected to be printable ASCII without spaces");
    }
    match danger(env) {
        Some(reason) => Err(Error::DangerousEnv {
            env: env.to_owned(),
            reason,
        }),
        None => Ok(()),
    }
}

fn danger(env: &str) -> Option<&'static str> {
    let by_prefix = DANGEROUS_PREFIXES
        .iter()
        .find(|(prefix, _)| env.starts_with(prefix));
    // Proxies are read in lower case as well, so case does not count for any of them.
    let upper = env.to_ascii_uppercase();
    let by_name = || {
        DANGEROUS
            .iter()
            .find(|(names, _)| names.contains(&upper.as_str()))
            .map(|(_, reason)| *reason)
    };
    by_prefix.map(|(_, reason)| *reason).or_else(by_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_error(env: &str, expected: &str) {
        let error = check(env).unwrap_err().to_string();
        assert!(error.contains(expected), "{env:?}: {error}");
    }

    #[test]
    fn usual_names_are_accepted() {
        for env in [
            "API_KEY",
            "OPENAI_API_KEY",
            "token",
            "A",
            "_X",
            "my.key",
            "LDAP_PASSWORD",
            "PATH_TOKEN",
            "GITHUB_TOKEN",
            "MALLOC",
        ] {
            assert_eq!(check(env), Ok(()), "{env}");
        }
    }

    #[test]
    fn names_that_cannot_be_variables_are_refused() {
        check_error("", "no environment variable");
        check_error("A=B", "`=`");
        check_error("A\0", "NUL");
        check_error("A B", "printable");
        check_error("A\n", "printable");
        check_error("\u{1b}[31m", "printable");
        check_error("SCHLÜSSEL", "printable");
    }

    /// Attack 26.
    #[test]
    fn names_that_subvert_programs_are_refused() {
        for env in [
            "LD_PRELOAD",
            "LD_LIBRARY_PATH",
            "PATH",
            "HOME",
            "BASH_ENV",
            "PYTHONSTARTUP",
            "NODE_OPTIONS",
            "https_proxy",
            "HTTPS_PROXY",
            "SSL_CERT_FILE",
            "GLIBC_TUNABLES",
            "BASH_FUNC_x%%",
        ] {
            check_error(env, "use another name");
        }
    }
}
