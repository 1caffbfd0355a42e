//! The picture that the docs show: what a check costs, a bar for each contender, with the least and the most of all rounds.

use std::fmt::Write as _;

use serde_json::Value;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 170.0;
/// Room for the figure behind the longest bar.
const RIGHT: f64 = 150.0;
const BAR: f64 = 18.0;
const STEP: f64 = 24.0;
const HEAD: f64 = 34.0;

pub(crate) fn draw(cases: &[Value]) -> String {
    let contenders = |case: &Value| case["contenders"].as_array().cloned().unwrap_or_default();
    let number = |of: &Value, key: &str| of[key].as_f64().unwrap_or_default();
    let all = cases.iter().flat_map(contenders);
    let most = all.map(|contender| number(&contender, "micros_a_check_most")).fold(1.0, f64::max);
    let scale = (WIDTH - LEFT - RIGHT) / most;
    let (mut bars, mut y) = (String::new(), 44.0);
    for case in cases {
        let title = title(case["case"].as_str().unwrap_or_default());
        writeln!(bars, "<text x=\"12\" y=\"{}\" class=\"case\">{title}</text>", y + 16.0).unwrap();
        y += HEAD - 8.0;
        for contender in contenders(case) {
            let name = contender["name"].as_str().unwrap_or_default();
            let (micros, least, most) = (
                number(&contender, "micros_a_check"),
                number(&contender, "micros_a_check_least"),
                number(&contender, "micros_a_check_most"),
            );
            let middle = y + BAR / 2.0;
            let (end, from, to) = (micros * scale, LEFT + least * scale, LEFT + most * scale);
            let class = name.replace(' ', "-").to_lowercase();
            let beside = number(&contender, "beside_the_bare_loop");
            writeln!(
                bars,
                "<text x=\"{:.0}\" y=\"{:.0}\" class=\"name\">{name}</text>\
                 <rect x=\"{LEFT}\" y=\"{y}\" width=\"{end:.1}\" height=\"{BAR}\" class=\"{class}\"/>\
                 <path d=\"M{from:.1} {middle}H{to:.1}\" class=\"span\"/>\
                 <text x=\"{:.1}\" y=\"{:.0}\">{micros:.1} µs ({beside:.2} ×)</text>",
                LEFT - 8.0,
                middle + 4.0,
                to + 8.0,
                middle + 4.0,
            )
            .unwrap();
            y += STEP;
        }
        y += 10.0;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <style>.case{{font-weight:bold}}.name{{text-anchor:end}}.bare-loop{{fill:#9aa5b1}}.engine{{fill:#2f6fde}}\
         .jcm-server{{fill:#7aa5f0}}.haproxy{{fill:#e08a2e}}.span{{stroke:#222;stroke-width:1.5;fill:none}}</style>\n\
         <rect width=\"{WIDTH}\" height=\"{y}\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"26\" font-size=\"15\">What a check costs: µs of CPU, each beside a bare loop in the same run</text>\n\
         {bars}</svg>\n"
    )
}

fn title(case: &str) -> String {
    let (way, targets) = case.split_once('-').unwrap_or((case, ""));
    let way = match way {
        "kept" => "HTTP, connection kept",
        "fresh" => "HTTP, a connection for each check",
        _ => "TCP connect",
    };
    format!("{way}, {targets} nodes once a second")
}
