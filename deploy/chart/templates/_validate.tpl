{{/* What no schema can say. Each sentence tells what to do. */}}
{{- define "kpo-healer.validate" -}}
{{- if not .Values.config.airflows -}}
{{- fail "config.airflows: is empty: describe at least one Airflow (values.yaml has an example)" -}}
{{- end -}}
{{- include "kpo-healer.validate.login" . -}}
{{- include "kpo-healer.validate.replicas" . -}}
{{- include "kpo-healer.validate.admission" . -}}
{{- if regexMatch "^(127\\.|localhost:|\\[::1\\])" (default ":8080" .Values.config.listen) -}}
{{- fail "config.listen: the kubelet can't reach its own probes there: leave the host away, as :8080" -}}
{{- end -}}
{{- end -}}

{{- define "kpo-healer.validate.login" -}}
{{- if and .Values.secret.existingSecret .Values.secret.data -}}
{{- fail "secret: existingSecret and data exclude each other: set one" -}}
{{- end -}}
{{- range $index, $airflow := .Values.config.airflows -}}
  {{- range $key := list "password" "token" -}}
    {{- if get $airflow $key -}}
      {{- fail (printf "config.airflows[%d].%s: would stand in a ConfigMap for many to read: put it into a Secret and use %sFile" $index $key $key) -}}
    {{- end -}}
    {{- $file := get $airflow (printf "%sFile" $key) | default "" -}}
    {{- if and (hasPrefix "/etc/kpo-healer/secret/" $file) (not (include "kpo-healer.secretName" $)) -}}
      {{- fail (printf "config.airflows[%d].%sFile: there is no Secret with this file: set secret.existingSecret or secret.data" $index $key) -}}
    {{- end -}}
    {{- if and $.Values.secret.data (hasPrefix "/etc/kpo-healer/secret/" $file) (not (hasKey $.Values.secret.data (base $file))) -}}
      {{- fail (printf "config.airflows[%d].%sFile: secret.data has no key %s" $index $key (base $file)) -}}
    {{- end -}}
  {{- end -}}
{{- end -}}
{{- end -}}

{{- define "kpo-healer.validate.replicas" -}}
{{- $election := include "kpo-healer.election" . | fromJson -}}
{{- if and (not $election.enabled) (gt (int .Values.replicaCount) 1) -}}
{{- fail "replicaCount: with config.leaderElection.enabled false nothing keeps two replicas from acting at once: set it to 1" -}}
{{- end -}}
{{- end -}}

{{- define "kpo-healer.validate.admission" -}}
{{- $labels := .Values.admissionPolicy.labels -}}
{{- if or .Values.admissionPolicy.delete.enabled $labels.enabled -}}
{{- if semverCompare "<1.30.0-0" .Capabilities.KubeVersion.Version -}}
{{- fail (printf "admissionPolicy: needs Kubernetes 1.30 or newer, this is %s: disable it" .Capabilities.KubeVersion.Version) -}}
{{- end -}}
{{- end -}}
{{- if and $labels.enabled (not (or $labels.users $labels.groups)) -}}
{{- fail "admissionPolicy.labels: nobody could start a task's Pod any more: name Airflow's own accounts in users or groups" -}}
{{- end -}}
{{- end -}}
