//! One file of SQLite that an image holds, in memory. Whoever made it may have meant harm.

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::types::Value;
use rusqlite::{Connection, MAIN_DB, Params, Row};

use crate::asn1::Damaged;
use crate::error::Reason;

/// The number by which NSS knows an object: what is left of its handle without the bits that say which token it is of.
pub(super) type Id = u32;

/// Where SQLite says which journal a database has, and what stands there for one that is not a write-ahead log.
const JOURNAL: std::ops::Range<usize> = 18..20;
const ROLLBACK_JOURNAL: u8 = 1;

/// No value of a row is longer, and neither is a statement, as a list of revoked certificates is in a database of its user.
const MAX_VALUE_BYTES: i32 = 16 << 20;
const MAX_SQL_BYTES: i32 = 1 << 18;
/// A database of 16 MiB takes a tenth of it.
const MAX_STEPS: u32 = 20_000_000;
const STEPS_BETWEEN_LOOKS: u32 = 10_000;

const LACKS_TABLES: Reason = "it lacks the tables of NSS";

/// Why a database is left alone.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It is as it should be, and yet cannot be changed.
    Reason(Reason),
    /// SQLite will not have it.
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<Damaged> for Trouble {
    fn from(damaged: Damaged) -> Self {
        Self::Reason(damaged.into())
    }
}

impl From<Trouble> for Reason {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Reason(reason) => reason,
            Trouble::Sqlite(error) => match error.sqlite_error_code() {
                Some(rusqlite::ErrorCode::OperationInterrupted) => "reading it takes too long",
                Some(rusqlite::ErrorCode::OutOfMemory) => "there is not enough memory for it",
                _ => "it is damaged, or no database of NSS",
            },
        }
    }
}

/// A database whose changes are seen by nobody until [`Database::changed`] returns them.
#[derive(Debug)]
pub(super) struct Database {
    connection: Connection,
    changed: bool,
}

impl Database {
    /// Takes the file's content, which has these tables and no other.
    pub(super) fn open(content: &[u8], tables: &[&str]) -> Result<Self, Trouble> {
        if content.is_empty() {
            return Err(Trouble::Reason(LACKS_TABLES));
        }
        let mut content = content.to_vec();
        // In memory there is no log beside it; that none is on the disk was seen before.
        if let Some(journal) = content.get_mut(JOURNAL) {
            journal.fill(ROLLBACK_JOURNAL);
        }
        let mut connection = Connection::open_in_memory()?;
        harden(&mut connection)?;
        connection.deserialize_read_exact(MAIN_DB, &content[..], content.len(), false)?;
        check_schema(&connection, tables)?;
        Ok(Self {
            connection,
            changed: false,
        })
    }

    /// The rows that a query finds.
    pub(super) fn select<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, Trouble> {
        let mut statement = self.connection.prepare(sql)?;
        let rows = statement.query_map(params, read)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Whether a query finds any row.
    pub(super) fn has(&self, sql: &str, params: impl Params) -> Result<bool, Trouble> {
        Ok(self.connection.prepare(sql)?.exists(params)?)
    }

    /// Changes rows.
    pub(super) fn execute(&mut self, sql: &str, params: impl Params) -> Result<(), Trouble> {
        let rows = self.connection.prepare(sql)?.execute(params)?;
        self.changed |= rows > 0;
        Ok(())
    }

    /// The file's content if it is another than before.
    pub(super) fn changed(mut self) -> Result<Option<Vec<u8>>, Trouble> {
        if !self.changed {
            return Ok(None);
        }
        check_consistency(&self.connection)?;
        Ok(Some(self.connection.serialize(MAIN_DB)?.to_vec()))
    }
}

/// As SQLite's documentation asks of whoever opens what others made (`security.html`), and with bounds.
fn harden(connection: &mut Connection) -> rusqlite::Result<()> {
    for (option, value) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
    ] {
        connection.set_db_config(option, value)?;
    }
    for (limit, value) in [
        (Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, MAX_SQL_BYTES),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
    ] {
        connection.set_limit(limit, value)?;
    }
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    let mut looks = 0;
    let too_long = move || {
        looks += 1;
        looks > MAX_STEPS / STEPS_BETWEEN_LOOKS
    };
    connection.progress_handler(STEPS_BETWEEN_LOOKS.cast_signed(), Some(too_long))
}

fn check_schema(connection: &Connection, tables: &[&str]) -> Result<(), Trouble> {
    let mut statement = connection.prepare("SELECT type, tbl_name FROM sqlite_schema")?;
    let mut rows = statement.query([])?;
    let mut found = 0;
    while let Some(row) = rows.next()? {
        let (kind, table) = (row.get_ref(0)?.as_str(), row.get_ref(1)?.as_str());
        match (kind, table) {
            (Ok("table"), Ok(table)) if tables.contains(&table) => found += 1,
            (Ok("index"), Ok(table)) if tables.contains(&table) => {}
            _ => return Err(Trouble::Reason("it holds more than a database of NSS does")),
        }
    }
    if found < tables.len() {
        return Err(Trouble::Reason(LACKS_TABLES));
    }
    drop(rows);
    drop(statement);
    check_consistency(connection)
}

fn check_consistency(connection: &Connection) -> Result<(), Trouble> {
    let said: Value = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if said == Value::Text("ok".to_owned()) {
        Ok(())
    } else {
        Err(Trouble::Reason("it is damaged"))
    }
}
