//! One safe parser: byte-exact requests and responses through the real binary. What another server could read in
//! another way never reaches the other side, and what was refused leaves nothing behind.
//!
//! The rows are data: `parser/requests/*.txt`, `parser/responses/*.txt`, `parser/paths.txt`. [`table`] has their
//! format. Beside each row of the first two stands what nginx and HAProxy answer, as measured by
//! `proxy/tests/tools/parser_peers.py`.

mod admin;
mod message;
mod origin;
mod paths;
mod requests;
mod responses;
mod sweeps;
mod table;
