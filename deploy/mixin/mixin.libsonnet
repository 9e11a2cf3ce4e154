// The dashboard and the alerts of the chart as a monitoring mixin: https://monitoring.mixins.dev
//
//   local kpoHealer = (import 'kpo-healer/deploy/mixin/mixin.libsonnet') + {
//     _config+:: { docsUrl: 'https://runbooks.example.com/kpo-healer', severities: { KpoHealerRegrets: 'info' } },
//   };
{
  _config+:: {
    // Where `make docs` is served: the links to the runbook lead there.
    docsUrl: 'https://kpo-healer.example',
    // Alerts by name that get another severity, and those that are left away.
    severities: {},
    disabled: [],
  },

  local config = self._config,
  local linked(text) = std.strReplace(text, 'https://kpo-healer.example', config.docsUrl),
  local changed(rule) = rule {
    labels+: if std.objectHas(config.severities, rule.alert) then { severity: config.severities[rule.alert] } else {},
  },

  grafanaDashboards+:: {
    'kpo-healer.json': std.parseJson(linked(importstr '../chart/files/dashboard.json')),
  },

  prometheusAlerts+:: {
    local file = std.parseYaml(linked(importstr '../chart/files/alerts.yaml')),
    groups: [
      group { rules: [changed(rule) for rule in group.rules if !std.member(config.disabled, rule.alert)] }
      for group in file.groups
    ],
  },

  prometheusRules+:: { groups: [] },
}
