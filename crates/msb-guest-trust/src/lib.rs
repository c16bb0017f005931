//! Puts certificate authorities into a guest's trust stores.
