//! Stub.
pub(crate) enum Consent {
    Ask,
    Given,
}
pub(crate) fn run(_: Consent) -> anyhow::Result<()> {
    Ok(())
}
