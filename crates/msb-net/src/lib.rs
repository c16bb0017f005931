//! User-mode TCP/IP for a guest: Ethernet frames in, flows out.
