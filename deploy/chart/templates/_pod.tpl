{{/* The Pod's spec. Takes (dict "context" $ "args" (list …) "serves" true|false). */}}
{{- define "kpo-healer.podSpec" -}}
{{- $ := .context -}}
{{- $secret := include "kpo-healer.secretName" $ -}}
serviceAccountName: {{ include "kpo-healer.serviceAccountName" $ }}
automountServiceAccountToken: true
{{- with $.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
securityContext: {{- toYaml $.Values.podSecurityContext | nindent 2 }}
terminationGracePeriodSeconds: {{ $.Values.terminationGracePeriodSeconds }}
containers:
  - name: kpo-healer
    image: {{ include "kpo-healer.image" $ | quote }}
    imagePullPolicy: {{ $.Values.image.pullPolicy }}
    args: {{- toYaml .args | nindent 6 }}
    {{- with $.Values.extraEnv }}
    env: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- if .serves }}
    ports:
      - name: metrics
        containerPort: {{ include "kpo-healer.port" $ }}
        protocol: TCP
    startupProbe:
      httpGet: {path: /healthz, port: metrics}
      periodSeconds: 2
      failureThreshold: 30
    livenessProbe:
      httpGet: {path: /healthz, port: metrics}
      periodSeconds: 15
      timeoutSeconds: 5
      failureThreshold: 4
    readinessProbe:
      httpGet: {path: /readyz, port: metrics}
      periodSeconds: 5
      timeoutSeconds: 5
    {{- end }}
    resources: {{- toYaml $.Values.resources | nindent 6 }}
    securityContext: {{- toYaml $.Values.securityContext | nindent 6 }}
    volumeMounts:
      - name: config
        mountPath: /etc/kpo-healer/config
        readOnly: true
      {{- if $secret }}
      - name: secret
        mountPath: /etc/kpo-healer/secret
        readOnly: true
      {{- end }}
      {{- with $.Values.extraVolumeMounts }}
      {{- toYaml . | nindent 6 }}
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
  {{- with $.Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $.Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $.Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $.Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
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
