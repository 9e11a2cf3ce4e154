{{/*
A security context without its nulls: OpenShift gives user, group and fsGroup itself, and refuses others. An empty one says nothing.
*/}}
{{- define "kpo-healer.securityContext" -}}
{{- $given := dict -}}
{{- range $key, $value := . -}}
  {{- if not (kindIs "invalid" $value) -}}{{- $_ := set $given $key $value -}}{{- end -}}
{{- end -}}
{{- toYaml $given -}}
{{- end -}}

{{/* What is given; of replicas that stand by for one another also that a node's failure shall rather not take them all. */}}
{{- define "kpo-healer.affinity" -}}
{{- $affinity := deepCopy (default dict .Values.affinity) -}}
{{- if and (gt (int .Values.replicaCount) 1) (not .Values.cronJob.enabled) (not (hasKey $affinity "podAntiAffinity")) -}}
  {{- $selector := dict "matchLabels" (include "kpo-healer.selectorLabels" . | fromYaml) -}}
  {{- $term := dict "weight" 100 "podAffinityTerm" (dict "topologyKey" "kubernetes.io/hostname" "labelSelector" $selector) -}}
  {{- $_ := set $affinity "podAntiAffinity" (dict "preferredDuringSchedulingIgnoredDuringExecution" (list $term)) -}}
{{- end -}}
{{- with $affinity }}{{ toYaml . }}{{ end -}}
{{- end -}}

{{/* The Pod's spec. Takes (dict "context" $ "args" (list …) "serves" true|false). */}}
{{- define "kpo-healer.podSpec" -}}
{{- $ := .context -}}
{{- $secret := include "kpo-healer.secretName" $ -}}
serviceAccountName: {{ include "kpo-healer.serviceAccountName" $ }}
automountServiceAccountToken: {{ $.Values.serviceAccount.automount }}
{{- with $.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
securityContext: {{- include "kpo-healer.securityContext" $.Values.podSecurityContext | nindent 2 }}
terminationGracePeriodSeconds: {{ $.Values.terminationGracePeriodSeconds }}
{{- with $.Values.initContainers }}
initContainers: {{- tpl (toYaml .) $ | nindent 2 }}
{{- end }}
containers:
  - name: kpo-healer
    image: {{ include "kpo-healer.image" $ | quote }}
    imagePullPolicy: {{ $.Values.image.pullPolicy }}
    args: {{- toYaml (concat .args (default list $.Values.extraArgs)) | nindent 6 }}
    {{- with $.Values.envFrom }}
    envFrom: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with $.Values.extraEnv }}
    env: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- if .serves }}
    ports:
      - name: metrics
        containerPort: {{ include "kpo-healer.port" $ }}
        protocol: TCP
    {{- with $.Values.startupProbe }}
    startupProbe: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with $.Values.livenessProbe }}
    livenessProbe: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with $.Values.readinessProbe }}
    readinessProbe: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- end }}
    resources: {{- toYaml $.Values.resources | nindent 6 }}
    securityContext: {{- include "kpo-healer.securityContext" $.Values.securityContext | nindent 6 }}
    volumeMounts:
      - name: config
        mountPath: /etc/kpo-healer/config
        readOnly: true
      {{- if $secret }}
      - name: secret
        mountPath: /etc/kpo-healer/secret
        readOnly: true
      {{- end }}
      {{- range $.Values.projectedTokens }}
      - name: token-{{ .name }}
        mountPath: {{ .mountPath }}
        readOnly: true
      {{- end }}
      {{- with $.Values.extraVolumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
  {{- with $.Values.extraContainers }}
  {{- tpl (toYaml .) $ | nindent 2 }}
  {{- end }}
volumes:
  - name: config
    configMap:
      name: {{ include "kpo-healer.fullname" $ }}
  {{- if $secret }}
  - name: secret
    secret:
      secretName: {{ $secret }}
      defaultMode: 0440
  {{- end }}
  {{- range $.Values.projectedTokens }}
  - name: token-{{ .name }}
    projected:
      defaultMode: 0440
      sources:
        - serviceAccountToken:
            audience: {{ .audience | quote }}
            expirationSeconds: {{ default 3600 .expirationSeconds }}
            path: {{ default "token" .path }}
  {{- end }}
  {{- with $.Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $.Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $.Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "kpo-healer.affinity" $ }}
affinity: {{- . | nindent 2 }}
{{- end }}
{{- with $.Values.topologySpreadConstraints }}
topologySpreadConstraints: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "kpo-healer.podMetadata" -}}
annotations:
  checksum/config: {{ toYaml .Values.config | sha256sum }}
  {{- with .Values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
labels:
  {{- include "kpo-healer.labels" . | nindent 2 }}
  {{- with .Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}
