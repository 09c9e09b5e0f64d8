//! The authority over real HTTPS: each test in a directory of its own, on a port of its own, at a time it chooses.

mod common;

mod access;
mod audit;
mod backups;
mod batches;
mod bundles;
mod certificates;
mod changes;
mod data_dir;
mod editions;
mod enrolment;
mod epochs;
mod est;
mod exports;
mod http;
mod news;
mod older;
mod once;
mod openapi;
mod pages;
mod policies;
mod profiles;
mod rates;
mod reports;
mod revocation;
mod roles;
mod rotations;
mod seals;
mod space;
mod standing;
mod watching;
